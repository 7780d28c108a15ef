"""FastConformer (Rekesh et al. 2023, arXiv 2305.05084), stateful as in Noroozi et al. 2024 (arXiv 2312.17279).

A Conformer of 12.5 frames a second: eightfold, depthwise-separable subsampling and short kernels make it 2.8 times as
fast. That it can stream with caches of constant size, all that sees time sees no future but the attention, and that
only to its chunk's end: subsampling and convolutions are causal, and norms are layer norms.

One model has several look-aheads. The paper's [left, right] context is `Chunk(right + 1, left)`: a chunk's first frame
sees `right` frames ahead. Offline, the paper's model has symmetric convolutions, which here are `convolution: chunk`
and `subsampling_padding: same`, and batch norm, `norm: batch`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from asr.encoders.base import Chunk
from asr.encoders.conformer import ConformerFields
from asr.encoders.convolution import RightContext
from asr.encoders.subsampling import Padding

__all__ = ["FastConformerConfig"]


@dataclass(frozen=True, kw_only=True)
class FastConformerConfig(ConformerFields):
    """The sizes that NeMo publishes; frames of 80 ms. `chunks` look 1040, 480, 80 and 0 ms ahead."""

    sizes: ClassVar[dict[str, dict[str, int]]] = {
        "s": {"dim": 176, "layers": 16, "heads": 4},
        "m": {"dim": 256, "layers": 16, "heads": 4},
        "l": {"dim": 512, "layers": 17, "heads": 8},
        "xl": {"dim": 1024, "layers": 24, "heads": 8},
    }

    kind: Literal["fast_conformer"] = "fast_conformer"
    size: Literal["s", "m", "l", "xl"] = "l"
    kernel: int = 9
    convolution: RightContext = "causal"
    chunks: tuple[Chunk, ...] = (Chunk(1, 70), Chunk(2, 70), Chunk(7, 70), Chunk(14, 70))
    subsampling: Literal[2, 4, 8] = 8
    subsampling_channels: int = 256
    subsampling_padding: Padding = "causal"
    subsampling_separable: bool = True
    scale_input: bool = True
