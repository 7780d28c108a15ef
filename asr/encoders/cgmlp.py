"""The MLP with convolutional gating (cgMLP; Sakuma et al. 2021): the local branch of the Branchformer family.

B streams, U frames of this step, D = dim, E = hidden.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from asr.encoders.attention import Context
from asr.encoders.convolution import ConvolutionState, DepthwiseConvolution, RightContext
from asr.encoders.dropout import Dropout
from asr.encoders.feed_forward import Activation, activate

__all__ = ["CgMLP", "GateActivation"]

GateActivation = Literal["identity"] | Activation


class ConvolutionalGate(nn.Module):
    """The convolutional spatial gating unit: one half of the channels, convolved over time, gates the other.

    (B, U, E) -> (B, U, E / 2). It begins as a gate that is open everywhere, as in gMLP (Liu et al. 2021).
    """

    def __init__(
        self,
        hidden: int,
        kernel: int,
        *,
        right: RightContext,
        norm_epsilon: float,
        linear: bool,
        activation: GateActivation,
    ) -> None:
        super().__init__()
        self.activation: GateActivation = activation
        self.norm = nn.LayerNorm(hidden // 2, eps=norm_epsilon)
        self.depthwise = DepthwiseConvolution(hidden // 2, kernel, right=right)
        self.project = nn.Linear(hidden // 2, hidden // 2) if linear else None
        for layer in (self.depthwise, self.project):
            if layer is not None and layer.bias is not None:
                nn.init.normal_(layer.weight, std=1e-6)
                nn.init.ones_(layer.bias)

    def forward(
        self, x: Tensor, context: Context, state: ConvolutionState
    ) -> tuple[Tensor, ConvolutionState]:
        x, gate = x.chunk(2, -1)
        gate, state = self.depthwise(self.norm(gate), context, state)
        if self.project is not None:
            gate = self.project(gate)
        if self.activation != "identity":
            gate = activate(gate, self.activation)
        return x * gate, state


class CgMLP(nn.Module):
    """(B, U, D) -> (B, U, D): to E channels, GELU, gate, and back. Norm and residual stand outside."""

    def __init__(
        self,
        dim: int,
        hidden: int,
        kernel: int,
        *,
        right: RightContext = "chunk",
        dropout: float = 0.0,
        norm_epsilon: float = 1e-5,
        linear: bool = False,
        activation: GateActivation = "identity",
    ) -> None:
        super().__init__()
        self.project_in = nn.Linear(dim, hidden)
        self.gate = ConvolutionalGate(
            hidden, kernel, right=right, norm_epsilon=norm_epsilon, linear=linear, activation=activation
        )
        self.dropout = Dropout(dropout)
        self.project_out = nn.Linear(hidden // 2, dim)

    def init_state(self, batch: int, left: int = 0) -> ConvolutionState:
        """What the convolution remembers; `left`, the frames that attention does, is nothing to it."""
        return self.gate.depthwise.init_state(batch)

    def forward(
        self, x: Tensor, context: Context, state: ConvolutionState
    ) -> tuple[Tensor, ConvolutionState]:
        x, state = self.gate(F.gelu(self.project_in(x)), context, state)
        return self.project_out(self.dropout(x)), state
