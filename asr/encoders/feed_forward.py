"""The feed-forward module of Transformers and Conformers."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from asr.encoders.dropout import Dropout

__all__ = ["Activation", "FeedForward", "activate"]

Activation = Literal["relu", "swish", "gelu"]


def activate(x: Tensor, activation: Activation) -> Tensor:
    match activation:
        case "relu":
            return F.relu(x)
        case "swish":
            return F.silu(x)
        case "gelu":
            return F.gelu(x)


class FeedForward(nn.Module):
    """Linear, activation, dropout, linear: (B, U, D) -> (B, U, D). Norm and residual stand in the block."""

    def __init__(
        self,
        dim: int,
        hidden: int,
        *,
        activation: Activation = "swish",
        dropout: float = 0.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.activation: Activation = activation
        self.project_in = nn.Linear(dim, hidden, bias=bias)
        self.project_out = nn.Linear(hidden, dim, bias=bias)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project_out(self.dropout(activate(self.project_in(x), self.activation)))
        return y
