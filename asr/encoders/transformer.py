"""The audio encoder of the Transformer Transducer (Zhang et al. 2020, arXiv 2002.02562).

Attention and feed-forward with relative positions, and nothing else. Each layer sees `left` frames before its chunk, as
in the paper, so what a frame depends on grows with depth but what a step costs does not.

It departs from the paper where that could not stream with a fixed delay, or trains worse. There, each layer looks some
frames ahead, which add up over the layers; here all layers see their chunk's end and nothing beyond. Residuals go
around the norms, not after them, so that 18 layers train without care, and a norm follows the last. Two convolutions
make 40 ms frames, where the paper stacks four frames of features every 30 ms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from asr.encoders.attention import Attention, AttentionState, Context
from asr.encoders.base import Chunk
from asr.encoders.dropout import Dropout
from asr.encoders.dynamic_depth import DepthConfig, GatedEncoder
from asr.encoders.feed_forward import Activation, FeedForward
from asr.encoders.positions import check_chunks
from asr.encoders.subsampling import Factor, Padding, Subsampling
from asr.errors import ConfigError

__all__ = ["Transformer", "TransformerBlock", "TransformerConfig"]

SIZES: dict[str, dict[str, int]] = {
    "s": {"dim": 256, "layers": 12, "heads": 4},
    "m": {"dim": 384, "layers": 12, "heads": 6},
    "l": {"dim": 1024, "layers": 18, "heads": 8},
}


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """A named `size`, of which any field may be given another value; 0 stands for its own.

    "l" is the paper's, in a transducer of 139 M parameters with two more such layers that encode labels: heads are 64
    wide, narrower than `dim` asks for. "s" and "m" are ours. `chunks` are the latencies that it is trained for, in
    output frames of 40 ms; full context is always one more, and none make an offline model. `depth` lets each utterance
    choose its blocks: see `DepthConfig`.
    """

    kind: Literal["transformer"] = "transformer"
    size: Literal["s", "m", "l"] = "m"
    dim: int = 0
    layers: int = 0
    heads: int = 0
    head_dim: int = 64
    feed_forward_dim: int = 2048
    activation: Activation = "relu"
    dropout: float = 0.1
    attention_dropout: float = 0.1
    chunks: tuple[Chunk, ...] = (Chunk(8, 32), Chunk(16, 64), Chunk(32, 128))
    subsampling: Factor = 4
    subsampling_channels: int = 64
    subsampling_padding: Padding = "same"
    depth: DepthConfig | None = None

    def __post_init__(self) -> None:
        for name, value in SIZES[self.size].items():
            if not getattr(self, name):
                object.__setattr__(self, name, value)
        if self.dim % 2:
            raise ConfigError(f"encoder.dim: {self.dim} is odd; positions are pairs of sine and cosine")
        check_chunks(self.chunks)
        if self.depth is not None:
            self.depth.check(self.chunks)


class TransformerBlock(nn.Module):
    """Zhang et al. 2020, figure 2: attention, feed-forward; a norm before each."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        c = config
        self.norm_attention = nn.LayerNorm(c.dim)
        self.attention = Attention(c.dim, c.heads, head_dim=c.head_dim, dropout=c.attention_dropout)
        self.norm_feed_forward = nn.LayerNorm(c.dim)
        self.feed_forward = FeedForward(c.dim, c.feed_forward_dim, activation=c.activation, dropout=c.dropout)
        self.dropout = Dropout(c.dropout)

    def init_state(self, batch: int, left: int) -> AttentionState:
        return self.attention.init_state(batch, left)

    def forward(self, x: Tensor, context: Context, state: AttentionState) -> tuple[Tensor, AttentionState]:
        """(B, U, D) -> (B, U, D), the next state."""
        y, state = self.attention(self.norm_attention(x), context, state)
        x = x + self.dropout(y)
        return x + self.dropout(self.feed_forward(self.norm_feed_forward(x))), state


class Transformer(GatedEncoder):
    """(B, T, F) at 100 Hz -> (B, U, D) at 25 Hz, or as `subsampling` says. See `Encoder` for the contract."""

    def __init__(self, config: TransformerConfig, features: int = 80) -> None:
        c = config
        super().__init__(
            Subsampling(
                features,
                c.dim,
                channels=c.subsampling_channels,
                factor=c.subsampling,
                padding=c.subsampling_padding,
            ),
            [TransformerBlock(c) for _ in range(c.layers)],
            dim=c.dim,
            chunks=c.chunks,
            dropout=c.dropout,
            norm_out=nn.LayerNorm(c.dim),
            depth=c.depth,
        )
        self.config = config
