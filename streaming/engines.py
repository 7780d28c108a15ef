"""From what `asr serve` was told to engines: which models, run by what, how exactly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast, get_args

from asr.bundle import load
from asr.errors import ConfigError
from asr.paths import embedded_model
from streaming.engine import Engine, Precision, TorchEngine

__all__ = ["load_engines"]


def load_engines(
    models: Sequence[str],
    *,
    precision: str = "float32",
    fast: bool = False,
    threads: int | None = None,
) -> dict[str, Engine]:
    """`models` are bundles, or NAME=BUNDLE; without a name, it is that of the bundle's folder. None: the embedded one.

    Raises ConfigError: a precision that is none, or that a model cannot have; a name that stands for two.
    BundleError: what is no bundle.
    """
    if precision not in get_args(Precision):
        raise ConfigError(f"precision: {precision!r} is none; use {', '.join(get_args(Precision))}")
    kind, engines = cast("Precision", precision), dict[str, Engine]()
    for text in models or [str(embedded_model())]:
        name, sign, path = text.partition("=")
        if not sign or "/" in name:  # a path may have the sign, too
            name, path = "", text
        name = name or Path(path).resolve().name.removesuffix(".tar")
        if name in engines:
            raise ConfigError(f"model: two are named {name}; give one another name: NAME={path}")
        model = load(path, fast=fast)
        engines[name] = TorchEngine(model, threads=threads, precision=kind)
    return engines
