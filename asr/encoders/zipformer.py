"""Zipformer (Yao et al. 2023, arXiv 2310.11230), offline and streaming in one class.

Six stacks run at 50, 25, 12.5, 6.25, 12.5 and 25 frames a second; frames leave at 25. The streaming form departs from
the paper in its convolutions, which see a little of the past and the whole chunk (icefall's causal Zipformer).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from asr.encoders.base import FULL_CONTEXT, Chunk
from asr.encoders.conv_embed import LOOKAHEAD, RECEPTIVE_FIELD, ConvEmbed, ConvEmbedState
from asr.encoders.regularizers import Balancer, Schedule, Scheduled, Whiten, set_batch_count
from asr.encoders.zipformer_modules import (
    Attention,
    AttentionWeights,
    BiasNorm,
    Bypass,
    Context,
    Convolution,
    FeedForward,
    NonlinearAttention,
    RelativePositions,
    blur_weights,
    skip_sequences,
)
from asr.encoders.zipformer_packed import CACHES, PackedBlock
from asr.errors import ConfigError
from asr.native.attention import Seen
from asr.native.library import plain
from asr.native.linear import multiplies_bytes
from asr.state import zeros

__all__ = ["Zipformer", "ZipformerConfig", "ZipformerState"]

SIZES: dict[str, dict[str, tuple[int, ...]]] = {
    "s": {
        "layers": (2, 2, 2, 2, 2, 2),
        "dims": (192, 256, 256, 256, 256, 256),
        "feed_forward_dims": (512, 768, 768, 768, 768, 768),
        "unmasked_dims": (192, 192, 192, 192, 192, 192),
    },
    "m": {
        "layers": (2, 2, 3, 4, 3, 2),
        "dims": (192, 256, 384, 512, 384, 256),
        "feed_forward_dims": (512, 768, 1024, 1536, 1024, 768),
        "unmasked_dims": (192, 192, 256, 256, 256, 192),
    },
    "l": {
        "layers": (2, 2, 4, 5, 4, 2),
        "dims": (192, 256, 512, 768, 512, 256),
        "feed_forward_dims": (512, 768, 1536, 2048, 1536, 768),
        "unmasked_dims": (192, 192, 256, 320, 256, 192),
    },
}


@dataclass(frozen=True, kw_only=True)
class ZipformerConfig:
    """A named `size`, of which any field may be given another value; an empty tuple stands for the size's own.

    One number a stack. `chunks` are the latencies that it is trained for, in output frames of 40 ms; full context is
    always one more. `causal=False` is the offline model, which has no other.
    """

    kind: Literal["zipformer"] = "zipformer"
    size: Literal["s", "m", "l"] = "m"
    layers: tuple[int, ...] = ()
    dims: tuple[int, ...] = ()
    feed_forward_dims: tuple[int, ...] = ()
    unmasked_dims: tuple[int, ...] = ()
    downsampling: tuple[int, ...] = (1, 2, 4, 8, 4, 2)
    heads: tuple[int, ...] = (4, 4, 4, 8, 4, 4)
    kernels: tuple[int, ...] = (31, 31, 15, 15, 15, 31)
    query_dim: int = 32
    value_dim: int = 12
    position_head_dim: int = 4
    position_dim: int = 48
    embed_channels: tuple[int, int, int] = (8, 32, 128)
    causal: bool = True
    chunks: tuple[Chunk, ...] = (Chunk(8, 32), Chunk(16, 64), Chunk(32, 128))

    def __post_init__(self) -> None:
        for name, value in SIZES[self.size].items():
            if not getattr(self, name):
                object.__setattr__(self, name, value)
        for name in (*SIZES["m"], "heads", "kernels"):
            if len(getattr(self, name)) != len(self.downsampling):
                raise ConfigError(f"encoder.{name}: give {len(self.downsampling)} numbers, one a stack")
        step = max(self.downsampling) // 2
        for chunk in self.chunks:
            if chunk.frames % step or chunk.left % step or 4 * chunk.frames <= LOOKAHEAD:
                raise ConfigError(
                    f"encoder.chunks: {chunk.frames} frames with {chunk.left} to the left: both must be multiples of "
                    f"{step}, the frames of the slowest stack, and a chunk longer than {LOOKAHEAD * 10} ms"
                )


@dataclass(frozen=True)
class LayerState:
    """keys, nonlinear, values1, values2: (B, L, ...) what attention still sees; past1, past2: (B, kernel // 2, D)."""

    keys: Tensor
    nonlinear: Tensor
    values1: Tensor
    values2: Tensor
    past1: Tensor
    past2: Tensor


@dataclass(frozen=True)
class ZipformerState:
    """received: (B,) input frames so far; position: (B,) frames at 50 Hz so far; the caches of all parts."""

    received: Tensor
    position: Tensor
    embed: ConvEmbedState
    stacks: tuple[tuple[LayerState, ...], ...]


class ZipformerBlock(Scheduled):
    """Yao et al. 2023, figure 2: two attentions and two convolutions share one set of attention weights."""

    attention_skip_rate = Schedule((0.0, 0.2), (4000.0, 0.05), (16000.0, 0.0))
    feed_forward_skip_rate = Schedule((0.0, 0.1), (4000.0, 0.01), (50000.0, 0.0))
    blur_rate = Schedule((0.0, 0.25), (4000.0, 0.025), (50000.0, 0.0))

    def __init__(self, config: ZipformerConfig, stack: int, bypass_skip_rate: Schedule) -> None:
        super().__init__()
        c, dim, hidden = config, config.dims[stack], config.feed_forward_dims[stack]
        heads, kernel = c.heads[stack], c.kernels[stack]
        self.weights = AttentionWeights(
            dim, heads=heads, query_dim=c.query_dim, position_head_dim=c.position_head_dim,
            position_dim=c.position_dim,
        )  # fmt: skip
        self.feed_forward1 = FeedForward(dim, hidden * 3 // 4)
        self.feed_forward2 = FeedForward(dim, hidden)
        self.feed_forward3 = FeedForward(dim, hidden * 5 // 4)
        self.nonlinear_attention = NonlinearAttention(dim, dim * 3 // 4)
        self.attention1 = Attention(dim, heads=heads, value_dim=c.value_dim)
        self.attention2 = Attention(dim, heads=heads, value_dim=c.value_dim)
        self.convolution1 = Convolution(dim, kernel, causal=c.causal)
        self.convolution2 = Convolution(dim, kernel, causal=c.causal)
        self.bypass_middle = Bypass(dim)
        self.norm = BiasNorm(dim)
        self.bypass = Bypass(dim, skip_rate=bypass_skip_rate)
        share = (0.3, 0.7)
        self.balancer_nonlinear = Balancer(
            positive=share, absolute=(Schedule((0.0, 0.004), (4000.0, 0.02)), 100.0), probability=Schedule((0.0, 0.05))
        )  # fmt: skip
        self.balancer2 = Balancer(
            positive=share,
            absolute=(Schedule((0.0, 0.0), (4000.0, 0.1)), 2.0),
            probability=Schedule((0.0, 0.05)),
        )
        self.balancer3 = Balancer(
            positive=share,
            absolute=(Schedule((0.0, 0.0), (4000.0, 0.2)), 4.0),
            probability=Schedule((0.0, 0.05)),
        )
        self.balancer_in = Balancer(positive=(0.45, 0.55), absolute=(0.2, 4.0))
        self.balancer_out = Balancer(positive=(0.45, 0.55), absolute=(0.1, 4.0))
        self.whiten = Whiten(Schedule((0.0, 12.0), (20000.0, 4.0)))
        self.packed: PackedBlock | None = None

    def pack(self, *, int8: bool = False) -> None:
        """Make inference fast, if there is a kernel. The weights must not change before the next `train`."""
        self.packed = PackedBlock(self, int8=int8) if PackedBlock.fits(self) else None

    def train(self, mode: bool = True) -> Self:
        if mode:
            self.packed = None
        return super().train(mode)

    def init_state(self, batch: int, left: int) -> LayerState:
        empty = partial(zeros, self.norm.bias, batch)
        return LayerState(
            empty(left, self.weights.key_dim),
            empty(left, self.nonlinear_attention.hidden),
            empty(left, self.attention1.value_dim),
            empty(left, self.attention2.value_dim),
            empty(self.convolution1.history, self.convolution1.dim),
            empty(self.convolution2.history, self.convolution2.dim),
        )

    def forward(self, x: Tensor, context: Context, state: LayerState) -> tuple[Tensor, LayerState]:
        if self.packed is not None and plain(x) and not torch.is_grad_enabled():
            x, caches = self.packed(x, context, [getattr(state, name) for name in CACHES])
            return x, LayerState(*caches)
        skip_attention = self.now(self.attention_skip_rate) if self.training else 0.0
        skip_feed_forward = self.now(self.feed_forward_skip_rate) if self.training else 0.0
        x_in = x
        weights, first, keys = self.weights(x, context, state.keys)
        x = x + self.feed_forward1(x)
        first = blur_weights(first, self.now(self.blur_rate) if self.training else 0.0)
        y, nonlinear = self.nonlinear_attention(x, first, context, state.nonlinear)
        x = x + skip_sequences(self.balancer_nonlinear(y), skip_attention)
        y, values1 = self.attention1(x, weights, context, state.values1)
        x = x + skip_sequences(y, skip_attention)
        y, past1 = self.convolution1(x, context, state.past1)
        x = x + skip_sequences(y, skip_attention)
        x = x + skip_sequences(self.balancer2(self.feed_forward2(x)), skip_feed_forward)
        x = self.bypass_middle(x_in, x)
        y, values2 = self.attention2(x, weights, context, state.values2)
        x = x + skip_sequences(y, skip_attention)
        y, past2 = self.convolution2(x, context, state.past2)
        x = x + skip_sequences(y, skip_attention)
        x = x + skip_sequences(self.balancer3(self.feed_forward3(x)), skip_feed_forward)
        x = self.bypass(x_in, self.norm(self.balancer_in(x)))
        return self.whiten(self.balancer_out(x)), LayerState(keys, nonlinear, values1, values2, past1, past2)


class Downsample(nn.Module):
    """A learned average over groups of `factor` frames."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.bias = nn.Parameter(torch.zeros(factor))

    def forward(self, x: Tensor, lens: Tensor) -> Tensor:
        """(B, U, D), (B,) -> (B, U / factor, D). Behind the end of a stream its last frame is repeated."""
        groups = x.unflatten(1, (-1, self.factor))
        weight = self.bias.softmax(0).to(x.dtype)
        last = (lens[:, None] - 1 - torch.arange(0, x.shape[1], self.factor, device=x.device)).clamp(
            0, self.factor - 1
        )
        frame = torch.arange(self.factor, device=x.device)
        after = (
            weight.flip(0).cumsum(0).flip(0)[last] - weight[last]
        )  # (B, U / factor), the weight behind the end
        real = torch.where(frame <= last[..., None], weight, 0.0)
        weights = real + torch.where(frame == last[..., None], after[..., None], 0.0)
        return (weights[:, :, None] @ groups)[:, :, 0]


class Stack(Scheduled):
    """Blocks at a lower rate, around them a bypass at the higher one."""

    def __init__(self, config: ZipformerConfig, stack: int) -> None:
        super().__init__()
        self.factor, self.dim = config.downsampling[stack], config.dims[stack]
        begin, stacks = 4000.0 * (stack + 1) / (len(config.dims) + 1), len(config.dims)
        share = 4000.0 / (stacks + 1) / config.layers[stack]
        self.blocks = nn.ModuleList(
            ZipformerBlock(config, stack, Schedule((begin + i * share, 0.5), (begin + (i + 1) * share, 0.05)))
            for i in range(config.layers[stack])
        )
        if self.factor > 1:
            self.downsample = Downsample(self.factor)
            self.bypass = Bypass(self.dim)

    def forward(
        self, x: Tensor, lens: Tensor, context: Context, state: tuple[LayerState, ...], keep: Tensor | None
    ) -> tuple[Tensor, tuple[LayerState, ...]]:
        x_in, states = x, []
        if self.factor > 1:
            x = self.downsample(x, lens)
        for block, old in zip(self.blocks, state, strict=True):
            x, new = block(x if keep is None else x * keep, context, old)
            states.append(new)
        x = x if keep is None else x * keep
        if self.factor > 1:
            x = self.bypass(x_in, x.repeat_interleave(self.factor, 1))
        return x, tuple(states)


class Zipformer(nn.Module):
    """(B, T, F) at 100 Hz -> (B, U, D) at 25 Hz. See `Encoder` for the contract."""

    subsampling = 4
    lookahead = LOOKAHEAD
    layer_rate = 2  # frames of a stack for each that leaves

    def __init__(self, config: ZipformerConfig, features: int = 80) -> None:
        super().__init__()
        self.config = config
        self.dim, self.layer_dims = max(config.dims), config.dims
        self.chunk_sizes = (*config.chunks, FULL_CONTEXT) if config.causal else (FULL_CONTEXT,)
        self.embed = ConvEmbed(features, config.dims[0], config.embed_channels)
        self.positions = RelativePositions(config.position_dim)
        self.stacks = nn.ModuleList(Stack(config, i) for i in range(len(config.dims)))
        self.downsample = Downsample(2)

    def layers(self) -> list[Any]:
        """The stacks: (B, 2 U, layer_dims)."""
        return list(self.stacks)

    def set_batch_count(self, batch_count: float) -> None:
        """How many batches training has seen: the schedules of dropout, Balancer and Whiten follow it."""
        set_batch_count(self, batch_count)

    def pack(self, *, int8: bool = False) -> None:
        """Make inference fast, front and blocks. Raises ConfigError where `int8` cannot be had."""
        if int8 and not (multiplies_bytes() and self.config.causal):
            raise ConfigError("int8 needs the C library, a processor with AVX-512 VNNI and a streaming model")
        self.embed.pack(int8=int8)
        for stack in self.layers():
            for block in stack.blocks:
                block.pack(int8=int8)

    def init_state(self, batch: int, chunk: Chunk = FULL_CONTEXT) -> ZipformerState:
        zero = torch.zeros(batch, dtype=torch.int64, device=self.downsample.bias.device)
        stacks = tuple(
            tuple(block.init_state(batch, 2 * chunk.left // stack.factor) for block in stack.blocks)
            for stack in self.layers()
        )
        return ZipformerState(zero, zero, self.embed.init_state(batch), stacks)

    def forward(self, x: Tensor, x_lens: Tensor, chunk: Chunk = FULL_CONTEXT) -> tuple[Tensor, Tensor]:
        """Whole utterances: `step` from the beginning. (B, T, F), (B,) -> (B, U, D), (B,)."""
        frames = max(1, x.shape[1] - RECEPTIVE_FIELD + 2) // 2  # at 50 Hz
        size = max(self.config.downsampling) if chunk.full else 2 * chunk.frames
        whole = 2 * size * max(1, -(-frames // size)) + LOOKAHEAD
        x = nn.functional.pad(x, (0, 0, 0, whole - x.shape[1]))[:, :whole]
        y, y_lens, _ = self.step(x, x_lens, self.init_state(len(x), chunk), chunk)
        return y[:, : (frames + 1) // 2], y_lens

    def step(
        self, x: Tensor, x_lens: Tensor, state: ZipformerState, chunk: Chunk = FULL_CONTEXT
    ) -> tuple[Tensor, Tensor, ZipformerState]:
        """The next chunks of B streams. Raises ValueError if x is not whole chunks (and `lookahead` at the start)."""
        begins = state.received == 0
        x = self._window(x, begins, state.embed.pending)
        frames = (x.shape[1] - LOOKAHEAD) // 2
        size = frames if chunk.full else 2 * chunk.frames
        if (x.shape[1] - LOOKAHEAD) % 2 or frames % size or frames % max(self.config.downsampling):
            raise ValueError(f"{x.shape[1]} input frames are not {LOOKAHEAD} and whole chunks of {2 * size}")
        received = state.received + x_lens
        real = ((received - (RECEPTIVE_FIELD - 2)).div(2, rounding_mode="floor") - state.position).clamp(
            min=0
        )
        lens = real.clamp(max=frames)
        y, embed = self.embed(x, real, state.embed)
        keep = self._feature_masks(y) if self.training else [None] * len(self.stacks)
        outputs: list[Tensor] = []
        stacks = []
        for stack, old, mask in zip(self.layers(), state.stacks, keep, strict=True):
            y = _fit_channels(y, stack.dim)
            context = self._context(y, lens, state.position, size, 2 * chunk.left, stack.factor)
            y, new = stack(y, lens, context, old, mask)
            outputs.append(y)
            stacks.append(new)
        y = self.downsample(_full_width(outputs), lens)
        return y, (lens + 1) // 2, ZipformerState(received, state.position + frames, embed, tuple(stacks))

    def _window(self, x: Tensor, begins: Tensor, pending: Tensor) -> Tensor:
        """What waited and what came. A stream that begins has nothing waiting, and brings as much more."""
        if bool(begins.all()):
            return x
        x = torch.cat([pending, x], 1)
        if not bool(begins.any()):
            return x
        return torch.where(begins[:, None, None], x[:, LOOKAHEAD:], x[:, : x.shape[1] - LOOKAHEAD])

    def _context(
        self, x: Tensor, lens: Tensor, position: Tensor, size: int, left: int, factor: int
    ) -> Context:
        size, left = size // factor, left // factor
        end = (lens + factor - 1) // factor
        begin = -(position // factor).clamp(max=left)
        return Context(Seen(size, left, begin, end), self.positions(left, size, x))

    def _feature_masks(self, x: Tensor) -> list[Tensor]:
        """Training drops the channels that wider stacks add, for some groups of frames, at all rates alike."""
        slowest = max(self.config.downsampling)
        kept = torch.rand(len(x), x.shape[1] // slowest, 2, device=x.device) >= 0.125
        inner, outer = kept[..., :1], kept.all(-1, keepdim=True)
        masks = []
        for dim, unmasked, factor in zip(
            self.config.dims, self.config.unmasked_dims, self.config.downsampling, strict=True
        ):
            middle = (dim - unmasked) // 2
            shape = (*inner.shape[:2], -1)
            mask = torch.cat(
                [torch.ones_like(inner).expand(*shape[:2], unmasked), inner.expand(*shape[:2], middle),
                 outer.expand(*shape[:2], dim - unmasked - middle)], -1,
            )  # fmt: skip
            masks.append(mask.to(x.dtype).repeat_interleave(slowest // factor, 1))
        return masks


def _fit_channels(x: Tensor, dim: int) -> Tensor:
    return x[..., :dim] if x.shape[-1] >= dim else nn.functional.pad(x, (0, dim - x.shape[-1]))


def _full_width(outputs: list[Tensor]) -> Tensor:
    """Each channel from the last stack that has it."""
    pieces = [outputs[-1]]
    for y in reversed(outputs[:-1]):
        width = sum(piece.shape[-1] for piece in pieces)
        if y.shape[-1] > width:
            pieces.append(y[..., width:])
    return torch.cat(pieces, -1)
