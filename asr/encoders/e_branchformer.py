"""E-Branchformer (Kim et al. 2022, arXiv 2210.00077), offline and streaming in one class.

Branchformer's two branches between two half feed-forward modules, merged by a depthwise convolution. It departs from
the paper so that it can stream: attention sees a chunk and what stands left of it; both convolutions, the gate's and
the merge's, see their right context up to the chunk's end, or none (`convolution: causal`). Branch dropout, and with
it the attention-free mode, are Branchformer's: attention's half of what is merged stays empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from asr.encoders.attention import Context
from asr.encoders.block_encoder import BlockEncoder
from asr.encoders.branches import Branches, BranchesConfig, BranchesState
from asr.encoders.convolution import ConvolutionState, DepthwiseConvolution
from asr.encoders.dropout import Dropout
from asr.encoders.feed_forward import Activation, FeedForward

__all__ = ["EBranchformer", "EBranchformerBlock", "EBranchformerConfig"]

SIZES: dict[str, dict[str, int]] = {
    "m": {"dim": 256, "layers": 12, "heads": 4, "cgmlp_dim": 1024, "feed_forward_dim": 1024},
    "l": {"dim": 512, "layers": 17, "heads": 8, "cgmlp_dim": 3072, "feed_forward_dim": 1024},
}


@dataclass(frozen=True, kw_only=True)
class EBranchformerConfig(BranchesConfig):
    """A named `size`, of which any field may be given another value; the other fields are `BranchesConfig`'s.

    l is the paper's (148.9 M with an attention decoder, of which 116.0 M are the encoder's), m what ESPnet publishes
    for LibriSpeech-100 (38.5 M and 25.1 M). Our subsampling pads, which makes its last layer larger by `dim` squared.

    feed_forward: "macaron" has half a module before the branches and half a one behind them; "single" a whole one
    behind them; "none" has neither.
    """

    kind: Literal["e_branchformer"] = "e_branchformer"
    size: Literal["m", "l"] = "m"
    feed_forward_dim: int = 0
    feed_forward: Literal["macaron", "single", "none"] = "macaron"
    activation: Activation = "swish"
    merge_kernel: int = 31

    def __post_init__(self) -> None:
        self.fill(SIZES[self.size])


class ScaledFeedForward(nn.Module):
    """Norm, feed-forward, dropout: (B, U, D) -> (B, U, D), times `scale`."""

    def __init__(self, config: EBranchformerConfig, scale: float) -> None:
        super().__init__()
        c = config
        self.scale = scale
        self.norm = c.norm()
        self.layer = FeedForward(c.dim, c.feed_forward_dim, activation=c.activation, dropout=c.dropout)
        self.dropout = Dropout(c.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.dropout(self.layer(self.norm(x)))


class Merge(nn.Module):
    """Kim et al. 2022, figure 2(b): both branches beside each other, a depthwise convolution added, projected."""

    def __init__(self, config: EBranchformerConfig) -> None:
        super().__init__()
        c = config
        self.depthwise = DepthwiseConvolution(2 * c.dim, c.merge_kernel, right=c.convolution)
        self.project = nn.Linear(2 * c.dim, c.dim)

    def init_state(self, batch: int) -> ConvolutionState:
        return self.depthwise.init_state(batch)

    def forward(
        self, attended: Tensor, local: Tensor, context: Context, state: ConvolutionState
    ) -> tuple[Tensor, ConvolutionState]:
        """(B, U, D) twice -> (B, U, D), the next state."""
        x = torch.cat([attended, local], -1)
        y, state = self.depthwise(x, context, state)
        return self.project(x + y), state


@dataclass(frozen=True)
class EBranchformerBlockState:
    branches: BranchesState
    merge: ConvolutionState


class EBranchformerBlock(nn.Module):
    """Kim et al. 2022, figure 1: half FFN, attention beside cgMLP, merge, half FFN, norm."""

    def __init__(self, config: EBranchformerConfig) -> None:
        super().__init__()
        c = config
        macaron = c.feed_forward == "macaron"
        self.feed_forward_in = ScaledFeedForward(c, 0.5) if macaron else None
        self.branches = Branches(c)
        self.merge = Merge(c)
        self.dropout = Dropout(c.dropout)
        self.feed_forward_out = None
        if c.feed_forward != "none":
            self.feed_forward_out = ScaledFeedForward(c, 0.5 if macaron else 1.0)
        self.norm_out = c.norm()

    def init_state(self, batch: int, left: int) -> EBranchformerBlockState:
        return EBranchformerBlockState(self.branches.init_state(batch, left), self.merge.init_state(batch))

    def forward(
        self, x: Tensor, context: Context, state: EBranchformerBlockState
    ) -> tuple[Tensor, EBranchformerBlockState]:
        """(B, U, D) -> (B, U, D), the next state."""
        if self.feed_forward_in is not None:
            x = x + self.feed_forward_in(x)
        attended, local, _, branches = self.branches(x, context, state.branches)
        y, merge = self.merge(attended, local, context, state.merge)
        x = x + self.dropout(y)
        if self.feed_forward_out is not None:
            x = x + self.feed_forward_out(x)
        return self.norm_out(x), EBranchformerBlockState(branches, merge)


class EBranchformer(BlockEncoder):
    """(B, T, F) at 100 Hz -> (B, U, D) at 25 Hz, or 12.5. See `Encoder` for the contract."""

    def __init__(self, config: EBranchformerConfig, features: int = 80) -> None:
        c = config
        super().__init__(
            c.front(features),
            (EBranchformerBlock(c) for _ in range(c.layers)),
            dim=c.dim,
            chunks=c.chunks,
            positions=c.positions,
            dropout=c.dropout,
            scale_input=c.scale_input,
            norm_out=c.norm() if c.norm_out else None,
        )
        self.config = config
