"""A predictor that sees the last tokens and nothing before (Ghodsi et al. 2020), in the form of icefall's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr.encoders.regularizers import Balancer, Schedule
from asr.errors import ConfigError
from asr.search.emission import BLANK

__all__ = ["StatelessConfig", "StatelessPredictor", "StatelessState"]


@dataclass(frozen=True, kw_only=True)
class StatelessConfig:
    """`context`: how many of the last tokens it sees."""

    kind: Literal["stateless"] = "stateless"
    dim: int = 512
    context: int = 2

    def __post_init__(self) -> None:
        if self.dim < 4 or self.dim % 4:
            raise ConfigError(
                f"predictor.dim: {self.dim} is not a multiple of 4, which its convolution takes together"
            )
        if self.context < 1:
            raise ConfigError(f"predictor.context: {self.context} tokens; give 1 or more")


@dataclass(frozen=True)
class StatelessState:
    """tokens: (N, C) the last ones, blanks before the first."""

    tokens: Tensor


class StatelessPredictor(nn.Module):
    """Embeddings of the last C tokens through one grouped convolution. See `Predictor`."""

    def __init__(self, config: StatelessConfig, vocabulary: int) -> None:
        super().__init__()
        self.dim, self.context = config.dim, config.context
        self.embedding = nn.Embedding(vocabulary, self.dim)
        self.balancer_in = Balancer(absolute=(0.5, 1.0), probability=Schedule((0.0, 0.05)))
        self.convolution = nn.Conv1d(self.dim, self.dim, self.context, groups=self.dim // 4, bias=False)
        self.balancer_out = Balancer(absolute=(0.5, 1.0), probability=Schedule((0.0, 0.05)))

    def init_state(self, count: int) -> StatelessState:
        blanks = torch.full(
            (count, self.context), BLANK, dtype=torch.int64, device=self.embedding.weight.device
        )
        return StatelessState(blanks)

    def step(self, token: Tensor, state: StatelessState) -> tuple[Tensor, StatelessState]:
        tokens = torch.cat([state.tokens[:, 1:], token[:, None]], 1)
        return self._convolved(tokens)[:, 0], StatelessState(tokens)

    def forward(self, tokens: Tensor) -> Tensor:
        return self._convolved(F.pad(tokens, (self.context, 0), value=BLANK))

    def _convolved(self, tokens: Tensor) -> Tensor:
        """(N, n + C - 1) -> (N, n, D)."""
        x = self.balancer_in(self.embedding(tokens)).transpose(1, 2)
        y: Tensor = self.balancer_out(self.convolution(x).transpose(1, 2).relu())
        return y
