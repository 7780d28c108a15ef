"""Checkpoints of other toolkits -> models of ours. Each toolkit has a module: its files, its names, its settings."""

from __future__ import annotations

from pathlib import Path

from asr.convert import espnet, icefall, nemo, wenet
from asr.convert.place import Converted
from asr.errors import ConfigError

__all__ = ["Converted", "convert"]

READERS = {"nemo": nemo.convert, "espnet": espnet.convert, "wenet": wenet.convert, "icefall": icefall.read}


def convert(origin: str, path: str | Path, *, tokenizer: str | Path | None = None) -> Converted:
    """The model of a checkpoint of `origin`: nemo, espnet, wenet or icefall; `tokenizer` is a SentencePiece model.

    Raises ConfigError: another origin. Raises BundleError: a file that is missing or damaged, an encoder of a form that
    ours lack, weights that do not fill the model.
    """
    if origin not in READERS:
        raise ConfigError(
            f"{origin}: checkpoints of this kind cannot be converted; known are {', '.join(READERS)}"
        )
    return READERS[origin](path, tokenizer)
