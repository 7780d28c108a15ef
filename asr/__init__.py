"""Rill: train, transcribe and stream speech recognition from one model file.

>>> import asr
>>> model = asr.load("data/models/english")
>>> model.transcribe("recording.wav").text
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asr.bundle import load
    from asr.errors import RillError
    from asr.model import Model
    from asr.transcript import Transcript, Word

__all__ = ["Model", "RillError", "Transcript", "Word", "load"]

_HOMES = {
    "Model": "asr.model", "RillError": "asr.errors", "Transcript": "asr.transcript", "Word": "asr.transcript",
    "load": "asr.bundle",
}  # fmt: skip


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: `import asr` alone must not wait for PyTorch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'asr' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
