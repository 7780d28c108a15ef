"""Encoders: features -> frames. Each kind has a configuration; `build` makes the encoder that it describes."""

from __future__ import annotations

from asr.encoders.base import FULL_CONTEXT, Chunk, Encoder
from asr.encoders.block_encoder import BlockEncoder
from asr.encoders.branchformer import Branchformer, BranchformerConfig
from asr.encoders.conformer import Conformer, ConformerConfig
from asr.encoders.dynamic_depth import DepthConfig
from asr.encoders.e_branchformer import EBranchformer, EBranchformerConfig
from asr.encoders.fast_conformer import FastConformerConfig
from asr.encoders.squeezeformer import Squeezeformer, SqueezeformerConfig
from asr.encoders.transformer import Transformer, TransformerConfig
from asr.encoders.zipformer import Zipformer, ZipformerConfig

__all__ = [
    "FULL_CONTEXT",
    "BlockEncoder",
    "Branchformer",
    "BranchformerConfig",
    "Chunk",
    "Conformer",
    "ConformerConfig",
    "DepthConfig",
    "EBranchformer",
    "EBranchformerConfig",
    "Encoder",
    "EncoderConfig",
    "FastConformerConfig",
    "Squeezeformer",
    "SqueezeformerConfig",
    "Transformer",
    "TransformerConfig",
    "Zipformer",
    "ZipformerConfig",
    "build",
]

EncoderConfig = (
    ZipformerConfig
    | ConformerConfig
    | FastConformerConfig
    | BranchformerConfig
    | EBranchformerConfig
    | SqueezeformerConfig
    | TransformerConfig
)


def build(config: EncoderConfig, features: int) -> Zipformer | BlockEncoder:
    """The encoder of a configuration, for `features` values a frame."""
    match config:
        case ZipformerConfig():
            return Zipformer(config, features)
        case ConformerConfig() | FastConformerConfig():
            return Conformer(config, features)
        case BranchformerConfig():
            return Branchformer(config, features)
        case EBranchformerConfig():
            return EBranchformer(config, features)
        case SqueezeformerConfig():
            return Squeezeformer(config, features)
        case TransformerConfig():
            return Transformer(config, features)
