"""What Branchformer and E-Branchformer share: attention and cgMLP side by side on the same frames.

B streams, U frames of this step, D = dim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from asr.encoders.attention import Attention, Context
from asr.encoders.base import Chunk
from asr.encoders.cgmlp import CgMLP, GateActivation
from asr.encoders.convolution import RightContext
from asr.encoders.dropout import Dropout
from asr.encoders.positions import Positions, check_chunks
from asr.encoders.subsampling import Factor, Padding, Subsampling
from asr.errors import ConfigError

__all__ = ["Branches", "BranchesConfig", "BranchesState"]


@dataclass(frozen=True, kw_only=True)
class BranchesConfig:
    """Both encoders' fields; 0 stands for the value of a named size.

    `branch_dropout` is the share of utterances that train a layer without its attention. `fast` leaves attention out
    of all layers: `asr.load(bundle, fast=True)` sets it. `chunks` are the latencies that it is trained for, in output
    frames; full context is always one more, and none make an offline model. The last fields are for checkpoints of
    others: see `Subsampling`, `BlockEncoder`, `CgMLP`.
    """

    kind: str = ""
    size: str = "m"
    dim: int = 0
    layers: int = 0
    heads: int = 0
    cgmlp_dim: int = 0
    kernel: int = 31
    convolution: RightContext = "chunk"
    branch_dropout: float = 0.0
    fast: bool = False
    dropout: float = 0.1
    attention_dropout: float = 0.1
    chunks: tuple[Chunk, ...] = (Chunk(8, 32), Chunk(16, 64), Chunk(32, 128))
    subsampling: Factor = 4
    subsampling_channels: int = 0  # 0: dim
    subsampling_padding: Padding = "same"
    positions: Positions = "relative"
    gate_linear: bool = False
    gate_activation: GateActivation = "identity"
    norm_epsilon: float = 1e-5
    norm_out: bool = False
    scale_input: bool = False

    def fill(self, size: dict[str, int]) -> None:
        """Give the fields of a named size that are 0 its values, and check them all."""
        for name, value in size.items():
            if not getattr(self, name):
                object.__setattr__(self, name, value)
        if not self.subsampling_channels:
            object.__setattr__(self, "subsampling_channels", self.dim)
        if self.dim % self.heads:
            raise ConfigError(f"encoder.heads: {self.heads} do not divide encoder.dim, {self.dim}")
        if self.cgmlp_dim % 2:
            raise ConfigError(f"encoder.cgmlp_dim: {self.cgmlp_dim} is odd; half of it gates the other half")
        if not 0 <= self.branch_dropout < 1:
            raise ConfigError(
                f"encoder.branch_dropout: {self.branch_dropout} is not a share from 0 to below 1"
            )
        check_chunks(self.chunks, self.positions)

    def front(self, features: int) -> Subsampling:
        return Subsampling(
            features,
            self.dim,
            channels=self.subsampling_channels,
            factor=self.subsampling,
            padding=self.subsampling_padding,
        )

    def norm(self) -> nn.LayerNorm:
        return nn.LayerNorm(self.dim, eps=self.norm_epsilon)


class Branch(nn.Module):
    """Norm, attention or cgMLP, dropout: (B, U, D) -> (B, U, D), the next state."""

    def __init__(self, layer: Attention | CgMLP, config: BranchesConfig) -> None:
        super().__init__()
        self.norm, self.layer, self.dropout = config.norm(), layer, Dropout(config.dropout)

    def init_state(self, batch: int, left: int) -> Any:
        return self.layer.init_state(batch, left)

    def forward(self, x: Tensor, context: Context, state: Any) -> tuple[Tensor, Any]:
        x, state = self.layer(self.norm(x), context, state)
        return self.dropout(x), state


class NoBranch(nn.Module):
    """Zeros in a branch's place, without parameters or state."""

    def init_state(self, batch: int, left: int) -> tuple[()]:
        return ()

    def forward(self, x: Tensor, context: Context, state: tuple[()]) -> tuple[Tensor, tuple[()]]:
        return torch.zeros_like(x), state


@dataclass(frozen=True)
class BranchesState:
    """The states of both branches; an empty one for a branch that is not there."""

    attention: Any
    cgmlp: Any


class Branches(nn.Module):
    """Attention and cgMLP of a layer, of which one may be missing; branch dropout while it trains."""

    def __init__(self, config: BranchesConfig, *, attention: bool = True, cgmlp: bool = True) -> None:
        super().__init__()
        c = config
        self.attention: Branch | NoBranch = NoBranch()
        self.cgmlp: Branch | NoBranch = NoBranch()
        if attention and not (c.fast and cgmlp):
            self.attention = Branch(
                Attention(c.dim, c.heads, positions=c.positions, dropout=c.attention_dropout), c
            )
        if cgmlp:
            layer = CgMLP(
                c.dim,
                c.cgmlp_dim,
                c.kernel,
                right=c.convolution,
                dropout=c.dropout,
                norm_epsilon=c.norm_epsilon,
                linear=c.gate_linear,
                activation=c.gate_activation,
            )
            self.cgmlp = Branch(layer, c)
        self.absent = isinstance(self.attention, NoBranch)
        self.drop = c.branch_dropout if cgmlp else 0.0

    def init_state(self, batch: int, left: int) -> BranchesState:
        return BranchesState(self.attention.init_state(batch, left), self.cgmlp.init_state(batch, left))

    def forward(
        self, x: Tensor, context: Context, state: BranchesState
    ) -> tuple[Tensor, Tensor, Tensor, BranchesState]:
        """(B, U, D) -> attention's and cgMLP's (B, U, D); (B, 1, 1), who has no attention; the next state."""
        attended, attention = self.attention(x, context, state.attention)
        local, cgmlp = self.cgmlp(x, context, state.cgmlp)
        every = torch.ones if self.absent else torch.zeros
        dropped = every(x.shape[0], 1, 1, dtype=torch.bool, device=x.device)
        if self.training and self.drop:
            dropped = dropped | (torch.rand(len(x), 1, 1, device=x.device) < self.drop)
            attended = attended.masked_fill(dropped, 0.0)
        return attended, local, dropped, BranchesState(attention, cgmlp)
