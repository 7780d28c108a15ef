"""Linear layers of inference with their weights laid out in the order in which the kernel reads them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from asr.native.library import address, available, library, plain
from asr.native.memory import Arena

__all__ = ["LinearWeights", "PackedLinear", "linear", "multiplies_bytes", "packed_or"]

PANEL, QUAD = 32, 4


class LinearWeights(ctypes.Structure):
    """As linear.h has it. It points into the arena, which must live as long."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "bytes", "scale", "offset")),
        ("inputs", ctypes.c_int64),
        ("outputs", ctypes.c_int64),
    )

    @classmethod
    def of(cls, layer: nn.Linear, arena: Arena, *, int8: bool = False) -> LinearWeights:
        """With `int8` each output's weights are whole numbers up to 127 times a scale, and each row of the inputs will
        be: a quarter of the memory, and four times as many products at once. Only where `multiplies_bytes()`."""
        outputs, inputs = layer.weight.shape
        weight = torch.zeros(-(-outputs // PANEL) * PANEL, -(-inputs // QUAD) * QUAD if int8 else inputs)
        bias = torch.zeros(len(weight))
        weight[:outputs, :inputs] = layer.weight.detach()
        if layer.bias is not None:
            bias[:outputs] = layer.bias.detach()
        keep = lambda x: address(arena.keep(x))  # noqa: E731
        if not int8:
            return cls(
                keep(weight.unflatten(0, (-1, PANEL)).transpose(1, 2)),
                keep(bias),
                None,
                None,
                None,
                inputs,
                outputs,
            )
        scale = weight.abs().amax(1).clamp(min=1e-30) / 127
        whole = (weight / scale[:, None]).round().to(torch.int8)
        offset = 128 * whole.sum(1, dtype=torch.int32)
        whole = whole.unflatten(0, (-1, PANEL)).unflatten(2, (-1, QUAD)).transpose(1, 2).contiguous()
        return cls(
            None, keep(bias), keep(whole.view(torch.float32)), keep(scale), keep(offset.view(torch.float32)), inputs,
            outputs,
        )  # fmt: skip

    @staticmethod
    def room(layer: nn.Linear) -> int:
        """Floats that it takes up in an arena, at most."""
        outputs = -(-layer.out_features // PANEL) * PANEL
        return Arena.room((outputs, layer.in_features + QUAD), *[(outputs,)] * 3)


class PackedLinear:
    """A layer of inference: its weights, copied, as the kernel likes them. Later changes do not reach it."""

    def __init__(self, layer: nn.Linear, *, int8: bool = False) -> None:
        self._arena = Arena(LinearWeights.room(layer))
        self._weights = LinearWeights.of(layer, self._arena, int8=int8)

    @classmethod
    def of(cls, layer: nn.Linear, *, int8: bool = False) -> PackedLinear | None:
        """`None` where there is no kernel for it."""
        return cls(layer, int8=int8) if available() and plain(*layer.parameters()) else None

    def __call__(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        return linear(self._weights, x.flatten(0, -2)).unflatten(0, x.shape[:-1])

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """A copy of a model is not packed: it may be for training."""

    def __reduce__(self) -> Any:
        return type(None), ()


def packed_or(layer: nn.Linear, packed: PackedLinear | None, x: Tensor) -> Tensor:
    """The layer of x, by its packed weights where they may be used."""
    y: Tensor = packed(x) if packed is not None and plain(x) and not torch.is_grad_enabled() else layer(x)
    return y


def multiplies_bytes() -> bool:
    """Whether this processor has the instructions for int8."""
    return available() and bool(library().rill_multiplies_bytes())


def linear(weights: LinearWeights, x: Tensor) -> Tensor:
    """(N, inputs) float32 on the CPU -> (N, outputs)."""
    if x.shape[1:] != (weights.inputs,):
        raise ValueError(f"{tuple(x.shape)} is not rows of {weights.inputs}")
    x, y = x.contiguous(), x.new_empty(len(x), weights.outputs)
    scratch = x.new_empty(library().rill_linear_scratch(len(x), weights.inputs))
    threads = torch.get_num_threads()
    library().rill_linear(ctypes.byref(weights), address(x), address(y), len(x), 0, address(scratch), threads)
    return y


def pointers(tensors: Sequence[Tensor | None]) -> ctypes.Array[ctypes.c_void_p]:
    """For a field of a structure."""
    return (ctypes.c_void_p * len(tensors))(*map(address, tensors))
