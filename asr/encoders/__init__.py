"""Encoders: features -> frames. Each kind has a configuration; `build` makes the encoder that it describes."""

from __future__ import annotations

from asr.encoders.base import FULL_CONTEXT, Chunk, Encoder
from asr.encoders.zipformer import Zipformer, ZipformerConfig

__all__ = ["FULL_CONTEXT", "Chunk", "Encoder", "EncoderConfig", "Zipformer", "ZipformerConfig", "build"]

EncoderConfig = ZipformerConfig


def build(config: EncoderConfig, features: int) -> Zipformer:
    """The encoder of a configuration, for `features` values a frame."""
    match config:
        case ZipformerConfig():
            return Zipformer(config, features)
