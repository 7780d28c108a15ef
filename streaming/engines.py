"""From what `asr serve` was told to engines: which models, run by what, how exactly."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast, get_args

from asr.bundle import load
from asr.errors import ConfigError
from asr.export import with_onnx_runtime
from asr.paths import embedded_model
from streaming.engine import Engine, Precision, TorchEngine

__all__ = ["load_engines", "share"]

_KINDS = ("torch", "onnx")
_MOST_PROCESSES = 8
"""As many streams as these step keep the event loop of one server busy."""


def share(threads: int | None, *, engine: str = "torch") -> tuple[int, int]:
    """Cores (`None`: all) -> processes that step sessions, and cores of each. The threads of ONNX Runtime do not live
    in a copy of their process, so it has one.
    """
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    threads = cores if threads is None else threads
    if threads < 1:
        raise ConfigError(f"threads is {threads}; at least 1 is needed")
    processes = min(threads, _MOST_PROCESSES) if sys.platform == "linux" and engine == "torch" else 1
    return processes, threads // processes


def load_engines(
    models: Sequence[str],
    *,
    engine: str = "torch",
    precision: str = "float32",
    fast: bool = False,
    threads: int | None = None,
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
    kind, engines = cast("Precision", precision), dict[str, Engine]()
    places = _places(models or [str(embedded_model())])
    served = _language_models(language_models, places)
    for name, path in places.items():
        model = load(path, fast=fast)
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
