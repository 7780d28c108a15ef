"""Zipformer's front, Conv-Embed (Yao et al. 2023, section 3.1): 100 features a second -> 50 frames a second."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr.encoders.regularizers import Balancer, Schedule, Scheduled, Whiten, scale_gradient
from asr.encoders.zipformer_modules import BiasNorm, scaled_linear
from asr.native import depthwise_7x7, swoosh_l, swoosh_r
from asr.native.linear import PackedLinear, packed_or

__all__ = ["ConvEmbed", "ConvEmbedState", "ConvNeXt"]

RECEPTIVE_FIELD = 9  # input frames that one frame sees before the ConvNeXt layer
CONVNEXT_REACH = 3  # frames that the ConvNeXt layer sees on each side
LOOKAHEAD = RECEPTIVE_FIELD - 2 + 2 * CONVNEXT_REACH  # input frames beyond a chunk: 13


@dataclass(frozen=True)
class ConvEmbedState:
    """pending: (B, 13, F) input frames that wait for their right context; convnext: (B, 3, F', C) its left context."""

    pending: Tensor
    convnext: Tensor


class ConvNeXt(Scheduled):
    """Depthwise 7 x 7, then two pointwise layers, around a bypass (Liu et al. 2022, as Zipformer uses it)."""

    skip_rate = Schedule((0.0, 0.2), (20000.0, 0.015))

    def __init__(self, channels: int, *, ratio: int = 3) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=(0, CONVNEXT_REACH), groups=channels)
        self.pointwise_in = nn.Linear(channels, ratio * channels)
        self.pointwise_out = scaled_linear(ratio * channels, channels, scale=0.01)
        self.hidden_balancer = Balancer(positive=(0.3, 1.0), absolute=(0.75, 5.0))
        self.out_balancer = Balancer(positive=(0.4, 0.6), absolute=(1.0, 6.0))
        self.out_whiten = Whiten(5.0)
        self.packed: tuple[PackedLinear | None, PackedLinear | None] = None, None

    def forward(self, x: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
        """(B, U + 3, F, C), its left context (B, 3, F, C) -> (B, U, F, C), the next left context."""
        frames = x.shape[1] - CONVNEXT_REACH
        y = depthwise_7x7(x, left, *self.depthwise.parameters())
        y = swoosh_l(self.hidden_balancer(packed_or(self.pointwise_in, self.packed[0], y)))
        y = packed_or(self.pointwise_out, self.packed[1], y)
        if self.training:
            y = y * (torch.rand(len(y), 1, 1, 1, device=y.device) >= self.now(self.skip_rate)).to(y.dtype)
        y = self.out_whiten(self.out_balancer(x[:, :frames] + y))
        return y, x[:, frames - CONVNEXT_REACH : frames]


class ConvEmbed(Scheduled):
    """Three convolutions without padding in time, a ConvNeXt layer, a projection.

    Frame j sees input frames [2j - 6, 2j + 15): a chunk needs `LOOKAHEAD` input frames after its own.
    """

    dropout = Schedule((0.0, 0.3), (20000.0, 0.1))

    def __init__(self, features: int, dim: int, channels: tuple[int, int, int]) -> None:
        super().__init__()
        first, second, third = channels
        self.features, self.width = features, ((features - 1) // 2 - 1) // 2
        self.convolution1 = nn.Conv2d(1, first, 3, padding=(0, 1))
        self.convolution2 = nn.Conv2d(first, second, 3, stride=2)
        self.convolution3 = nn.Conv2d(second, third, 3, stride=(1, 2))
        self.balancer1 = Balancer(absolute=(0.0, 1.0))
        self.balancer2 = Balancer(absolute=(0.0, 4.0))
        self.balancer3 = Balancer(absolute=(0.0, 4.0))
        self.convnext = ConvNeXt(third)
        self.project = nn.Linear(self.width * third, dim)
        self.whiten = Whiten(Schedule((0.0, 8.0), (20000.0, 4.0)), scale=0.02)
        self.norm = BiasNorm(dim)
        self.packed: PackedLinear | None = None

    def pack(self, *, int8: bool = False) -> None:
        """See `Zipformer.pack`."""
        layers = self.convnext.pointwise_in, self.convnext.pointwise_out
        self.convnext.packed = PackedLinear.of(layers[0], int8=int8), PackedLinear.of(layers[1], int8=int8)
        self.packed = PackedLinear.of(self.project, int8=int8)

    def train(self, mode: bool = True) -> Self:
        if mode:
            self.packed, self.convnext.packed = None, (None, None)
        return super().train(mode)

    def init_state(self, batch: int) -> ConvEmbedState:
        zeros = self.project.weight.new_zeros
        channels = self.convnext.depthwise.in_channels
        return ConvEmbedState(
            zeros(batch, LOOKAHEAD, self.features), zeros(batch, CONVNEXT_REACH, self.width, channels)
        )

    def forward(self, x: Tensor, real: Tensor, state: ConvEmbedState) -> tuple[Tensor, ConvEmbedState]:
        """(B, 2 U + 13, F) -> (B, U, D). Of the U + 3 frames before the ConvNeXt layer, the first `real` (B,) are."""
        pending = x[:, x.shape[1] - LOOKAHEAD :]
        y = _channel_last(self.convolution1, x[..., None])
        y = swoosh_r(self.balancer1(scale_gradient(y, 0.2) if self.training else y))
        y = swoosh_r(self.balancer2(_channel_last(self.convolution2, y)))
        y = swoosh_r(self.balancer3(_channel_last(self.convolution3, y)))
        after_end = torch.arange(y.shape[1], device=y.device) >= real[:, None]
        y = y.masked_fill(after_end[:, :, None, None], 0.0)
        y, convnext = self.convnext(y, state.convnext)
        y = packed_or(self.project, self.packed, y.transpose(2, 3).flatten(2))
        y = self.norm(self.whiten(y))
        if self.training:  # one mask for all frames of an utterance
            y = y * F.dropout(y.new_ones(len(y), 1, y.shape[2]), self.now(self.dropout))
        return y, ConvEmbedState(pending, convnext)


def _channel_last(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """The convolution of (B, T, F, C). Memory stays in this order, in which all that is between them works fastest."""
    y: Tensor = convolution(x.movedim(3, 1)).movedim(1, 3)
    return y
