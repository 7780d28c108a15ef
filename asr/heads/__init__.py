"""Heads: frames -> losses and tokens."""

from __future__ import annotations

from asr.heads.attention import AttentionConfig, AttentionDecoder
from asr.heads.base import BLANK, Emission, Head
from asr.heads.ctc import CTC, CTCConfig
from asr.heads.transducer import TDTConfig, Transducer, TransducerConfig

__all__ = [
    "BLANK",
    "CTC",
    "AttentionConfig",
    "AttentionDecoder",
    "CTCConfig",
    "Emission",
    "Head",
    "TDTConfig",
    "Transducer",
    "TransducerConfig",
]
