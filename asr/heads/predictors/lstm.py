"""The recurrent predictor of Graves 2012, in the form of NeMo's RNNTDecoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr.errors import ConfigError
from asr.search.emission import BLANK

__all__ = ["LSTMConfig", "LSTMPredictor", "LSTMState"]


@dataclass(frozen=True, kw_only=True)
class LSTMConfig:
    """`dim`: units of each layer. `embedding`: width of a token's vector, 0 for `dim`. `dropout`: behind each layer."""

    kind: Literal["lstm"] = "lstm"
    dim: int = 640
    layers: int = 1
    embedding: int = 0
    dropout: float = 0.2

    def __post_init__(self) -> None:
        if min(self.dim, self.layers) < 1 or self.embedding < 0:
            raise ConfigError("predictor: dim and layers must be 1 or more, embedding 0 or more")


@dataclass(frozen=True)
class LSTMState:
    """hidden, cell: (N, layers, D)."""

    hidden: Tensor
    cell: Tensor


class LSTMPredictor(nn.Module):
    """Embedding and LSTM; the blank's embedding is zero, as in Graves 2012. See `Predictor`."""

    def __init__(self, config: LSTMConfig, vocabulary: int) -> None:
        super().__init__()
        c = config
        self.dim, self.layers = c.dim, c.layers
        self.embedding = nn.Embedding(vocabulary, c.embedding or c.dim, padding_idx=BLANK)
        between = c.dropout if c.layers > 1 else 0.0
        self.lstm = nn.LSTM(c.embedding or c.dim, c.dim, c.layers, batch_first=True, dropout=between)
        self.dropout = nn.Dropout(c.dropout)
        with torch.no_grad():  # forget nothing at first (Gers et al. 2000)
            for i in range(c.layers):
                getattr(self.lstm, f"bias_ih_l{i}")[c.dim : 2 * c.dim] = 1.0
                getattr(self.lstm, f"bias_hh_l{i}")[c.dim : 2 * c.dim] = 0.0

    def init_state(self, count: int) -> LSTMState:
        zero = self.embedding.weight.new_zeros(count, self.layers, self.dim)
        return LSTMState(zero, zero)

    def step(self, token: Tensor, state: LSTMState) -> tuple[Tensor, LSTMState]:
        past = (state.hidden.transpose(0, 1).contiguous(), state.cell.transpose(0, 1).contiguous())
        y, (hidden, cell) = self.lstm(self.embedding(token)[:, None], past)
        return self.dropout(y[:, 0]), LSTMState(hidden.transpose(0, 1), cell.transpose(0, 1))

    def forward(self, tokens: Tensor) -> Tensor:
        y: Tensor = self.dropout(self.lstm(self.embedding(F.pad(tokens, (1, 0), value=BLANK)))[0])
        return y
