"""The C library: found, opened, and its functions declared to ctypes.

It holds no Python code: tensors go in as raw pointers, so one build serves every version of Python and torch.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
from ctypes import c_float, c_int, c_int64, c_void_p
from functools import cache
from pathlib import Path

# Before the library is opened: it must find torch's OpenMP runtime and share its threads, for two pools
# of threads that spin while they wait would take the cores from each other.
import torch
from torch import Tensor

__all__ = ["address", "available", "library", "opened", "plain", "real", "reason"]

FOLDER = Path(__file__).parent
NAME = "_kernels"

_ARGUMENTS: dict[str, list[type]] = {
    "rill_swoosh_forward": [c_void_p, c_void_p, c_int64, c_float, c_float, c_int],
    "rill_swoosh_backward": [c_void_p, c_void_p, c_void_p, c_int64, c_float, c_int],
    "rill_lattice": [*[c_void_p] * 8, *[c_int64] * 3, c_int, c_int],
    "rill_logits_scores": [*[c_void_p] * 6, c_int64, c_int64, c_int],
    "rill_logits_gradient": [*[c_void_p] * 7, c_int64, c_int64, c_int],
    "rill_joiner_hidden": [*[c_void_p] * 5, c_int64, c_int64, c_int, c_int],
    "rill_joiner_hidden_gradient": [*[c_void_p] * 6, c_int64, c_int64, c_int, c_int],
    "rill_durations": [*[c_void_p] * 9, *[c_int64] * 4, c_int],
    "rill_attention_scratch": [*[c_int64] * 4],
    "rill_attention_weights": [*[c_void_p] * 8, *[c_int64] * 8, c_int],
    "rill_attention_weights_gradient": [*[c_void_p] * 11, *[c_int64] * 8, c_int],
    "rill_attention_values": [*[c_void_p] * 7, *[c_int64] * 6, c_int],
    "rill_attention_values_gradient": [*[c_void_p] * 9, *[c_int64] * 6, c_int],
    "rill_moments": [*[c_void_p] * 3, *[c_int64] * 2, c_int],
    "rill_push": [*[c_void_p] * 5, *[c_int64] * 2, c_int],
    "rill_linear": [*[c_void_p] * 3, c_int64, c_int, c_void_p, c_int],
    "rill_linear_scratch": [c_int64, c_int64],
    "rill_multiplies_bytes": [],
    "rill_join_rows": [*[c_void_p] * 3, *[c_int64] * 2, c_int],
    "rill_split_rows": [*[c_void_p] * 3, *[c_int64] * 2, c_int],
    "rill_zipformer_block": [c_void_p, c_void_p],
    "rill_zipformer_block_work": [c_void_p, c_void_p],
    "rill_swoosh_masked": [*[c_void_p] * 4, *[c_int64] * 3, c_int],
    "rill_gate": [*[c_void_p] * 4, *[c_int64] * 3, c_int],
    "rill_bypass": [*[c_void_p] * 4, *[c_int64] * 3, c_int],
    "rill_bypass_gradient": [*[c_void_p] * 7, *[c_int64] * 3, c_int],
    "rill_dropout": [*[c_void_p] * 3, c_int64, c_int64, c_float, c_int],
    "rill_strided": [*[c_void_p] * 4, *[c_int64] * 7, c_int],
    "rill_strided_gradient": [*[c_void_p] * 6, *[c_int64] * 7, c_int],
    "rill_depthwise": [*[c_void_p] * 6, *[c_int64] * 9, c_int],
    "rill_depthwise_gradient": [*[c_void_p] * 10, *[c_int64] * 9, c_int],
}


@cache
def opened() -> tuple[ctypes.CDLL | None, str]:
    """The library, or None and why not."""
    files = [FOLDER / (NAME + suffix) for suffix in importlib.machinery.EXTENSION_SUFFIXES]
    found = [file for file in files if file.exists()]
    if not found:
        return None, "it was not built; with a C compiler, `python -m asr.native.build` builds it"
    try:
        kernels = ctypes.CDLL(str(found[0]))
        for name, arguments in _ARGUMENTS.items():
            getattr(kernels, name).argtypes = arguments
        for name in ("rill_attention_scratch", "rill_linear_scratch", "rill_zipformer_block_work"):
            getattr(kernels, name).restype = c_int64
    except (OSError, AttributeError) as error:
        return None, f"{found[0].name} cannot be used ({error}); `python -m asr.native.build` builds it anew"
    return kernels, ""


def available() -> bool:
    """Whether the C kernels are in use. Without them everything works, more slowly."""
    return opened()[0] is not None


def reason() -> str:
    """Why the C kernels are not in use and what to do about it; empty where they are."""
    return opened()[1]


def library() -> ctypes.CDLL:
    """The opened library. Raises OSError, with the reason, where there is none."""
    kernels, why = opened()
    if kernels is None:
        raise OSError(f"asr.native: {why}")
    return kernels


def address(tensor: Tensor | None) -> int | None:
    """Where a contiguous CPU tensor begins; None stays NULL."""
    if tensor is None:
        return None
    assert tensor.is_contiguous() and tensor.device.type == "cpu"
    return tensor.data_ptr()


def plain(*tensors: Tensor) -> bool:
    """Whether a kernel may read these: float32 on the CPU, with memory behind them."""
    return all(x.dtype is torch.float32 and x.device.type == "cpu" and real(x) for x in tensors)


def real(x: Tensor) -> bool:
    """Whether a tensor has memory: tracing (torch.compile, torch.export, ONNX) brings some that have none, and
    must see torch's own operations."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]
        return False
    return type(x) in (Tensor, torch.nn.Parameter)
