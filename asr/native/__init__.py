"""Fast CPU kernels in C, and the same functions in plain torch where the library was not built."""

from __future__ import annotations

from asr.native.depthwise import (
    chunk_causal_convolution,
    depthwise_7x7,
    depthwise_convolution,
    stream_convolution,
)
from asr.native.library import available, reason
from asr.native.strided import strided_convolution
from asr.native.swoosh import swoosh, swoosh_l, swoosh_r

__all__ = [
    "available",
    "chunk_causal_convolution",
    "depthwise_7x7",
    "depthwise_convolution",
    "reason",
    "stream_convolution",
    "strided_convolution",
    "swoosh",
    "swoosh_l",
    "swoosh_r",
]
