"""From what `asr serve` was told to engines: which models, run by what, how exactly."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast, get_args

import torch

from asr.bundle import load
from asr.errors import ConfigError
from asr.export import with_onnx_runtime
from asr.paths import embedded_model
from streaming.engine import Engine, Precision, TorchEngine

__all__ = ["device_for", "load_engines", "share"]

_KINDS = ("torch", "onnx")
_MOST_PROCESSES = 8
"""As many streams as these step keep the event loop of one server busy."""


def share(threads: int | None, *, engine: str = "torch", device: str = "cpu") -> tuple[int, int]:
    """Cores (`None`: all) -> processes that step sessions, and cores of each. One where the work cannot be copied with
    its process: a GPU's, and the threads of ONNX Runtime.
    """
    threads = _cores() if threads is None else threads
    if threads < 1:
        raise ConfigError(f"threads is {threads}; at least 1 is needed")
    several = sys.platform == "linux" and (engine, device) == ("torch", "cpu")
    processes = min(threads, _MOST_PROCESSES) if several else 1
    return processes, threads // processes


def _cores() -> int:
    """Those that this process may use: a container has a part of the machine's."""
    if sys.platform != "linux":
        return os.cpu_count() or 1
    cores = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, max(1, round(int(quota) / int(period))))
    return cores


def device_for(name: str | None, *, engine: str = "torch") -> str:
    """The device of that name; `None`: a GPU if there is one that the engine can use. Raises ConfigError."""
    if name is None:
        return "cuda" if engine == "torch" and torch.cuda.is_available() else "cpu"
    kind = name.partition(":")[0]
    if kind not in ("cpu", "cuda") or (kind == "cuda" and not torch.cuda.is_available()):
        raise ConfigError(
            f"device: {name!r} cannot be had; use cpu, or cuda where PyTorch finds a GPU (`asr doctor`)"
        )
    if kind == "cuda" and engine != "torch":
        raise ConfigError("device: ONNX Runtime runs on the processor here; use cpu, or the engine torch")
    return name


def load_engines(
    models: Sequence[str],
    *,
    engine: str = "torch",
    precision: str = "float32",
    fast: bool = False,
    threads: int | None = None,
    device: str = "cpu",
    language_models: Sequence[str] = (),
) -> dict[str, Engine]:
    """`models` are bundles, or NAME=BUNDLE; without a name, it is that of the bundle's folder. None: the embedded one.

    The engine onnx takes the graphs that `asr export` has left in a bundle, or makes them. `language_models` are
    NAME=PATH, for all models, or MODEL:NAME=PATH for one.

    Raises ConfigError: an engine or precision that is none, or that a model cannot have; a name that stands for two; a
    language model that does not fit a model. BundleError: what is no bundle. DataError: n-grams that cannot be read.
    """
    if precision not in get_args(Precision):
        raise ConfigError(f"precision: {precision!r} is none; use {', '.join(get_args(Precision))}")
    if engine not in _KINDS:
        raise ConfigError(f"engine: {engine!r} is none; use {' or '.join(_KINDS)}")
    if (engine, precision) == ("onnx", "bfloat16"):
        raise ConfigError("precision: bfloat16 is there for the engine torch only; use float32 or int8")
    if precision == "int8" and device != "cpu":
        raise ConfigError("precision: int8 is there for processors; on a GPU use bfloat16")
    kind, engines = cast("Precision", precision), dict[str, Engine]()
    places = _places(models or [str(embedded_model())])
    served = _language_models(language_models, places)
    for name, path in places.items():
        model = load(path, device=device, fast=fast)
        if engine == "onnx":
            graphs = Path(path, "onnx")
            folder = graphs if graphs.is_dir() else None
            model = with_onnx_runtime(model, folder=folder, int8=kind == "int8", threads=threads)
        engines[name] = TorchEngine(
            model,
            threads=threads,
            precision="float32" if engine == "onnx" else kind,
            language_models=served[name],
        )
    return engines


def _places(models: Sequence[str]) -> dict[str, str]:
    """Name -> bundle."""
    found: dict[str, str] = {}
    for text in models:
        name, sign, path = text.partition("=")
        if not sign or "/" in name:  # a path may have the sign, too
            name, path = "", text
        name = name or Path(path).resolve().name.removesuffix(".tar")
        if name in found:
            raise ConfigError(f"model: two are named {name}; give one another name: NAME={path}")
        found[name] = path
    return found


def _language_models(texts: Sequence[str], models: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Of each model: name -> file or bundle."""
    found: dict[str, dict[str, str]] = {model: {} for model in models}
    for text in texts:
        where, sign, path = text.partition("=")
        model, colon, name = where.rpartition(":")
        if not (sign and name and path) or "/" in name:
            raise ConfigError(
                f"--lm {text}: write it as NAME=PATH, or MODEL:NAME=PATH for one of several models"
            )
        if colon and model not in models:
            raise ConfigError(f"--lm {text}: no model {model!r}; there is {', '.join(models)}")
        for one in [model] if colon else models:
            if name in found[one]:
                raise ConfigError(f"--lm {text}: two of {one} are named {name}; give one another name")
            found[one][name] = path
    return found
