"""Conformer (Gulati et al. 2020, arXiv 2005.08100), offline and streaming in one class.

It departs from the paper so that it can stream: attention sees a chunk and what stands left of it; the convolution
sees its right context up to the chunk's end, or none (`convolution: causal`); its norm is a layer norm, for batch norm
learns the statistics of one chunk size (`norm: batch` has it). Kernels have 31 frames, a middle and two equal sides, as
in all later implementations, where the paper has 32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from asr.encoders.attention import Attention, AttentionState, Context
from asr.encoders.base import Chunk
from asr.encoders.convolution import ConvolutionModule, ConvolutionState, RightContext
from asr.encoders.dropout import Dropout
from asr.encoders.dynamic_depth import DepthConfig, GatedEncoder
from asr.encoders.feed_forward import Activation, FeedForward
from asr.encoders.norm import Norm
from asr.encoders.positions import Positions, check_chunks
from asr.encoders.subsampling import Factor, Padding, Subsampling
from asr.errors import ConfigError

__all__ = ["Conformer", "ConformerBlock", "ConformerConfig", "ConformerFields"]


@dataclass(frozen=True, kw_only=True)
class ConformerFields:
    """What each kind of Conformer is told: a named `size`, of which any field may be given another value; 0 stands
    for its own.

    `chunks` are the latencies that it is trained for, in output frames; full context is always one more, and none make
    an offline model. `depth` lets each utterance choose its blocks: see `DepthConfig`. The last fields are for
    checkpoints of others: see `Subsampling`, `BlockEncoder`.
    """

    sizes: ClassVar[dict[str, dict[str, int]]]

    kind: str
    size: str
    dim: int = 0
    layers: int = 0
    heads: int = 0
    feed_forward_dim: int = 0  # 0: four times dim
    kernel: int = 31
    convolution: RightContext = "chunk"
    dropout: float = 0.1
    attention_dropout: float = 0.1
    chunks: tuple[Chunk, ...] = (Chunk(8, 32), Chunk(16, 64), Chunk(32, 128))
    subsampling: Factor = 4
    subsampling_channels: int = 0  # 0: dim
    subsampling_padding: Padding = "same"
    subsampling_separable: bool = False
    positions: Positions = "relative"
    macaron: bool = True  # half a feed-forward module before the others and half behind; else one behind
    pad_input: bool = False  # see `ConvolutionModule`
    activation: Activation = "swish"
    norm: Norm = "layer"  # of the convolution module; the paper has "batch"
    norm_epsilon: float = 1e-5
    norm_out: bool = False
    scale_input: bool = False
    bias: bool = True
    depth: DepthConfig | None = None

    def __post_init__(self) -> None:
        for name, value in self.sizes[self.size].items():
            if not getattr(self, name):
                object.__setattr__(self, name, value)
        for name, value in {"feed_forward_dim": 4 * self.dim, "subsampling_channels": self.dim}.items():
            if not getattr(self, name):
                object.__setattr__(self, name, value)
        if self.dim % self.heads:
            raise ConfigError(f"encoder.heads: {self.heads} do not divide encoder.dim, {self.dim}")
        check_chunks(self.chunks, self.positions)
        if self.depth is not None:
            self.depth.check(self.chunks)


@dataclass(frozen=True, kw_only=True)
class ConformerConfig(ConformerFields):
    """Table 1 of the paper; frames of 40 ms."""

    sizes: ClassVar[dict[str, dict[str, int]]] = {
        "s": {"dim": 144, "layers": 16, "heads": 4},
        "m": {"dim": 256, "layers": 16, "heads": 4},
        "l": {"dim": 512, "layers": 17, "heads": 8},
    }

    kind: Literal["conformer"] = "conformer"
    size: Literal["s", "m", "l"] = "m"


@dataclass(frozen=True)
class ConformerBlockState:
    attention: AttentionState
    convolution: ConvolutionState


class ConformerBlock(nn.Module):
    """Gulati et al. 2020, figure 1: half FFN, attention, convolution, half FFN."""

    def __init__(self, config: ConformerFields) -> None:
        super().__init__()
        c = config

        def norm() -> nn.LayerNorm:
            return nn.LayerNorm(c.dim, eps=c.norm_epsilon)

        def feed_forward() -> FeedForward:
            return FeedForward(
                c.dim, c.feed_forward_dim, activation=c.activation, dropout=c.dropout, bias=c.bias
            )

        self.macaron, self.share = c.macaron, 0.5 if c.macaron else 1.0
        if c.macaron:
            self.norm_feed_forward_in, self.feed_forward_in = norm(), feed_forward()
        self.norm_attention = norm()
        self.attention = Attention(
            c.dim, c.heads, positions=c.positions, dropout=c.attention_dropout, bias=c.bias
        )
        self.norm_convolution = norm()
        self.convolution = ConvolutionModule(
            c.dim,
            c.kernel,
            right=c.convolution,
            norm_kind=c.norm,
            norm_epsilon=1e-5,
            activation=c.activation,
            bias=c.bias,
            pad_input=c.pad_input,
        )
        self.norm_feed_forward_out, self.feed_forward_out = norm(), feed_forward()
        self.norm_out = norm()
        self.dropout = Dropout(c.dropout)

    def init_state(self, batch: int, left: int) -> ConformerBlockState:
        return ConformerBlockState(self.attention.init_state(batch, left), self.convolution.init_state(batch))

    def forward(
        self, x: Tensor, context: Context, state: ConformerBlockState
    ) -> tuple[Tensor, ConformerBlockState]:
        """(B, U, D) -> (B, U, D), the next state."""
        if self.macaron:
            x = x + 0.5 * self.dropout(self.feed_forward_in(self.norm_feed_forward_in(x)))
        y, attention = self.attention(self.norm_attention(x), context, state.attention)
        x = x + self.dropout(y)
        y, convolution = self.convolution(self.norm_convolution(x), context, state.convolution)
        x = x + self.dropout(y)
        x = x + self.share * self.dropout(self.feed_forward_out(self.norm_feed_forward_out(x)))
        return self.norm_out(x), ConformerBlockState(attention, convolution)


class Conformer(GatedEncoder):
    """(B, T, F) at 100 Hz -> (B, U, D) at 25 Hz, or as `subsampling` says. See `Encoder` for the contract."""

    def __init__(self, config: ConformerFields, features: int = 80) -> None:
        c = config
        front = Subsampling(
            features,
            c.dim,
            channels=c.subsampling_channels,
            factor=c.subsampling,
            padding=c.subsampling_padding,
            separable=c.subsampling_separable,
        )
        super().__init__(
            front,
            (ConformerBlock(c) for _ in range(c.layers)),
            dim=c.dim,
            chunks=c.chunks,
            positions=c.positions,
            dropout=c.dropout,
            scale_input=c.scale_input,
            norm_out=nn.LayerNorm(c.dim, eps=c.norm_epsilon) if c.norm_out else None,
            depth=c.depth,
        )
        self.config = config
