"""Squeezeformer (Kim et al. 2022, arXiv 2206.00888), offline and streaming in one class.

A block is attention, feed-forward, convolution, feed-forward, each with a learned scale and bias before it and a layer
norm after its residual. From the middle to the last block, frames come at half the rate: a temporal U-Net, whose skip
goes around those blocks. The convolution has swish where the Conformer's has GLU; subsampling is depthwise-separable.

That it can stream, attention sees a chunk and what stands left of it, and the convolution sees to its right as far as
the chunk goes, or nothing (`convolution: causal`), where the paper's see everything; the convolution's norm is a layer
norm, for batch norm learns the statistics of one chunk size (`norm: batch` has it). The U-Net needs no departure:
reduced frame v sees frames 2v - 3 ... 2v + 1, and comes back as frames 2v and 2v + 1, so nothing looks beyond a pair of
frames. Pairs must not lie across chunks: chunks and their left contexts are even.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr.encoders.attention import Attention, AttentionState, Context
from asr.encoders.base import Chunk
from asr.encoders.block_encoder import BlockEncoder
from asr.encoders.convolution import ConvolutionState, DepthwiseConvolution, RightContext
from asr.encoders.dropout import Dropout
from asr.encoders.feed_forward import FeedForward
from asr.encoders.norm import Norm, norm
from asr.encoders.positions import RelativePositions, check_chunks
from asr.encoders.subsampling import Padding, Subsampling
from asr.errors import ConfigError

__all__ = ["HalfRate", "Squeezeformer", "SqueezeformerBlock", "SqueezeformerConfig"]

SIZES: dict[str, dict[str, int]] = {
    "xs": {"dim": 144, "layers": 16, "heads": 4},
    "s": {"dim": 196, "layers": 18, "heads": 4},
    "sm": {"dim": 256, "layers": 16, "heads": 4},
    "m": {"dim": 324, "layers": 20, "heads": 4},
    "ml": {"dim": 512, "layers": 18, "heads": 8},
    "l": {"dim": 640, "layers": 22, "heads": 8},
}


@dataclass(frozen=True, kw_only=True)
class SqueezeformerConfig:
    """A named `size` (table 2 of the paper), of which any field may be given another value; 0 stands for its own.

    `chunks` are the latencies that it is trained for, in output frames of 40 ms; full context is always one more, and
    none make an offline model. Blocks `reduce_at` up to `recover_at` run at half the rate, counted from 0. NeMo's
    checkpoints have `norm: batch` and `scale_input: true`.
    """

    kind: Literal["squeezeformer"] = "squeezeformer"
    size: Literal["xs", "s", "sm", "m", "ml", "l"] = "sm"
    dim: int = 0
    layers: int = 0
    heads: int = 0
    feed_forward_dim: int = 0  # 0: four times dim
    kernel: int = 31
    reduce_at: int = 0  # 0: one before the middle, the 7th of 16
    recover_at: int = 0  # 0: the last
    convolution: RightContext = "chunk"
    dropout: float = 0.1
    attention_dropout: float = 0.1
    chunks: tuple[Chunk, ...] = (Chunk(8, 32), Chunk(16, 64), Chunk(32, 128))
    subsampling_channels: int = 0  # 0: dim
    subsampling_padding: Padding = "same"
    norm: Norm = "layer"  # of the convolution module; the paper has "batch"
    scale_input: bool = False

    def __post_init__(self) -> None:
        for name, value in SIZES[self.size].items():
            self._fill(name, value)
        self._fill("feed_forward_dim", 4 * self.dim)
        self._fill("subsampling_channels", self.dim)
        self._fill("reduce_at", max(1, self.layers // 2 - 1))
        self._fill("recover_at", self.layers - 1)
        if self.dim % self.heads:
            raise ConfigError(f"encoder.heads: {self.heads} do not divide encoder.dim, {self.dim}")
        if not 0 < self.reduce_at < self.recover_at < self.layers:
            raise ConfigError(
                f"encoder.reduce_at: {self.reduce_at}, encoder.recover_at: {self.recover_at}: of {self.layers} layers, "
                "at least one stands before, between and after them"
            )
        check_chunks(self.chunks)
        for chunk in self.chunks:
            if chunk.frames % 2 or chunk.left % 2:
                raise ConfigError(
                    f"encoder.chunks: {chunk.frames} frames, {chunk.left} left: both must be even, for half the rate"
                )

    def _fill(self, name: str, value: int) -> None:
        if not getattr(self, name):
            object.__setattr__(self, name, value)


class Scale(nn.Module):
    """A scale and a bias of each channel: what is left of a layer norm before a module."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale, self.bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.bias, x, self.scale)


class SqueezeformerConvolution(nn.Module):
    """Linear, swish, depthwise convolution, norm, swish, linear: twice as wide as the Conformer's, and no gate."""

    def __init__(self, dim: int, kernel: int, *, right: RightContext, norm_kind: Norm) -> None:
        super().__init__()
        self.project_in = nn.Linear(dim, 2 * dim)
        self.depthwise = DepthwiseConvolution(2 * dim, kernel, right=right)
        self.norm = norm(norm_kind, 2 * dim)
        self.project_out = nn.Linear(2 * dim, dim)

    def init_state(self, batch: int) -> ConvolutionState:
        return self.depthwise.init_state(batch)

    def forward(
        self, x: Tensor, context: Context, state: ConvolutionState
    ) -> tuple[Tensor, ConvolutionState]:
        """(B, U, D) -> (B, U, D), the next state."""
        x, state = self.depthwise(F.silu(self.project_in(x)), context, state)
        return self.project_out(F.silu(self.norm(x))), state


@dataclass(frozen=True)
class SqueezeformerBlockState:
    attention: AttentionState
    convolution: ConvolutionState


class SqueezeformerBlock(nn.Module):
    """Kim et al. 2022, figure 2: attention, FFN, convolution, FFN; scale before, norm after."""

    def __init__(self, config: SqueezeformerConfig) -> None:
        super().__init__()
        c = config

        def feed_forward() -> FeedForward:
            return FeedForward(c.dim, c.feed_forward_dim, dropout=c.dropout)

        self.scale_attention, self.norm_attention = Scale(c.dim), nn.LayerNorm(c.dim)
        self.attention = Attention(c.dim, c.heads, dropout=c.attention_dropout)
        self.scale_feed_forward1, self.norm_feed_forward1 = Scale(c.dim), nn.LayerNorm(c.dim)
        self.feed_forward1 = feed_forward()
        self.scale_convolution, self.norm_convolution = Scale(c.dim), nn.LayerNorm(c.dim)
        self.convolution = SqueezeformerConvolution(c.dim, c.kernel, right=c.convolution, norm_kind=c.norm)
        self.scale_feed_forward2, self.norm_feed_forward2 = Scale(c.dim), nn.LayerNorm(c.dim)
        self.feed_forward2 = feed_forward()
        self.dropout = Dropout(c.dropout)

    def init_state(self, batch: int, left: int) -> SqueezeformerBlockState:
        return SqueezeformerBlockState(
            self.attention.init_state(batch, left), self.convolution.init_state(batch)
        )

    def forward(
        self, x: Tensor, context: Context, state: SqueezeformerBlockState
    ) -> tuple[Tensor, SqueezeformerBlockState]:
        """(B, U, D) -> (B, U, D), the next state."""
        y, attention = self.attention(self.scale_attention(x), context, state.attention)
        x = self.norm_attention(x + self.dropout(y))
        x = self.norm_feed_forward1(x + self.dropout(self.feed_forward1(self.scale_feed_forward1(x))))
        y, convolution = self.convolution(self.scale_convolution(x), context, state.convolution)
        x = self.norm_convolution(x + self.dropout(y))
        x = self.norm_feed_forward2(x + self.dropout(self.feed_forward2(self.scale_feed_forward2(x))))
        return x, SqueezeformerBlockState(attention, convolution)


@dataclass(frozen=True)
class HalfRateState:
    """past: (B, D, 3), frames that the next reduced one still sees; position: (B,), reduced frames so far."""

    past: Tensor
    position: Tensor
    blocks: tuple[Any, ...]


class HalfRate(nn.Module):
    """Blocks at half the frame rate, and a skip around them: (B, U, D) -> (B, U, D). Itself a `Block`."""

    kernel, stride = 5, 2

    def __init__(self, dim: int, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.history = self.kernel - self.stride
        self.depthwise = nn.Conv1d(dim, dim, self.kernel, stride=self.stride, groups=dim)
        self.pointwise = nn.Linear(dim, dim)
        self.positions = RelativePositions(dim)
        self.blocks = nn.ModuleList(blocks)
        self.recover = nn.Linear(dim, dim)

    def layers(self) -> list[Any]:
        return list(self.blocks)

    def init_state(self, batch: int, left: int) -> HalfRateState:
        like = self.recover.weight
        return HalfRateState(
            past=like.new_zeros(batch, len(like), self.history),
            position=torch.zeros(batch, dtype=torch.int64, device=like.device),
            blocks=tuple(block.init_state(batch, left // self.stride) for block in self.layers()),
        )

    def forward(self, x: Tensor, context: Context, state: HalfRateState) -> tuple[Tensor, HalfRateState]:
        """(B, U, D), of which a whole utterance's U may be odd -> (B, U, D), the next state."""
        seen = torch.cat([state.past.to(x.dtype), x.masked_fill(context.padding, 0.0).transpose(1, 2)], 2)
        past = seen[:, :, -self.history :]
        y = self.depthwise(F.pad(seen, (0, x.shape[1] % self.stride)))
        y = self.pointwise(y.transpose(1, 2))
        inner, blocks = self._context(y, context, state.position), []
        for block, old in zip(self.layers(), state.blocks, strict=True):
            y, new = block(y, inner, old)
            blocks.append(new)
        y = self.recover(y).repeat_interleave(self.stride, 1)[:, : x.shape[1]]
        return x + y, HalfRateState(past, state.position + inner.padding.shape[1], tuple(blocks))

    def _context(self, y: Tensor, context: Context, position: Tensor) -> Context:
        """What the reduced frames see; one is real if the first of its pair is."""
        lens = (~context.padding[:, :: self.stride, 0]).sum(1)
        chunk = Chunk(-(-context.chunk // self.stride), context.left // self.stride)
        return Context.of(y, lens, position, chunk, self.positions)


class Squeezeformer(BlockEncoder):
    """(B, T, F) at 100 Hz -> (B, U, D) at 25 Hz. See `Encoder` for the contract."""

    def __init__(self, config: SqueezeformerConfig, features: int = 80) -> None:
        c = config
        blocks = [SqueezeformerBlock(c) for _ in range(c.layers)]
        super().__init__(
            Subsampling(
                features,
                c.dim,
                channels=c.subsampling_channels,
                padding=c.subsampling_padding,
                separable=True,
            ),
            [
                *blocks[: c.reduce_at],
                HalfRate(c.dim, blocks[c.reduce_at : c.recover_at]),
                *blocks[c.recover_at :],
            ],
            dim=c.dim,
            chunks=c.chunks,
            dropout=c.dropout,
            scale_input=c.scale_input,
        )
        self.config = config
        self.norm_in = nn.LayerNorm(c.dim)

    def run(self, x: Tensor, context: Context, states: tuple[Any, ...]) -> tuple[Tensor, tuple[Any, ...]]:
        return super().run(self.norm_in(x), context, states)
