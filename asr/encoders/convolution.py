"""Depthwise convolution over time, and the Conformer's convolution module around it.

B streams, U frames of this step, D = dim. A frame sees `history` frames before it, across chunks; to its right it sees
nothing ("causal") or as far as its chunk goes ("chunk": Li et al. 2023, dynamic chunk convolution), which in full
context is the symmetric convolution that was published.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr.encoders.attention import Context
from asr.encoders.feed_forward import Activation, activate
from asr.encoders.norm import Norm, norm
from asr.native import depthwise_convolution, stream_convolution
from asr.state import zeros

__all__ = ["ConvolutionModule", "ConvolutionState", "DepthwiseConvolution", "RightContext"]

RightContext = Literal["causal", "chunk"]


@dataclass(frozen=True)
class ConvolutionState:
    """past: (B, history, D) frames that the next ones still see."""

    past: Tensor


class DepthwiseConvolution(nn.Module):
    """(B, U, D) -> (B, U, D): each channel its own filter of `kernel` frames. Padding counts as zeros."""

    def __init__(self, dim: int, kernel: int, *, right: RightContext = "chunk", bias: bool = True) -> None:
        super().__init__()
        self.dim, self.kernel = dim, kernel
        self.history = kernel - 1 if right == "causal" else kernel // 2
        self.weight = nn.Parameter(torch.empty(dim, 1, kernel))
        self.bias = nn.Parameter(torch.zeros(dim)) if bias else None
        nn.init.uniform_(self.weight, -(kernel**-0.5), kernel**-0.5)

    def init_state(self, batch: int) -> ConvolutionState:
        return ConvolutionState(zeros(self.weight, batch, self.history, self.dim))

    def forward(
        self, x: Tensor, context: Context, state: ConvolutionState
    ) -> tuple[Tensor, ConvolutionState]:
        if context.padded:
            x = x.masked_fill(context.padding, 0.0)
        past, none = state.past.to(x.dtype), self.weight.new_zeros(self.dim)
        bias = none if self.bias is None else self.bias
        seen = self.history + 1  # taps for this frame and those before it
        if self.kernel == seen or context.chunk == x.shape[1]:  # only the last frame has zeros behind it
            y = stream_convolution(x, past.transpose(1, 2), self.weight, bias)
        else:
            weight = F.pad(self.weight[..., seen:], (seen, 2 * seen - 1 - self.kernel))  # right of the middle
            y = stream_convolution(x, past.transpose(1, 2), self.weight[..., :seen], bias)
            y = y + depthwise_convolution(x, weight, none, chunk=context.chunk)
        last = x[:, max(0, x.shape[1] - self.history) :]
        past = torch.cat([past, last], 1)[:, last.shape[1] :]
        return y, ConvolutionState(past)


class ConvolutionModule(nn.Module):
    """Gulati et al. 2020, figure 2: gate, depthwise convolution, norm, swish, projection.

    `pad_input`: what stands before a stream are zeros in front of the gate, not behind it. WeNet's causal form.
    """

    def __init__(
        self,
        dim: int,
        kernel: int,
        *,
        right: RightContext = "chunk",
        norm_kind: Norm = "layer",
        norm_epsilon: float = 1e-5,
        activation: Activation = "swish",
        bias: bool = True,
        pad_input: bool = False,
    ) -> None:
        super().__init__()
        self.pad_input = pad_input
        self.activation: Activation = activation
        self.project_in = nn.Linear(dim, 2 * dim, bias=bias)
        self.depthwise = DepthwiseConvolution(dim, kernel, right=right, bias=bias)
        self.norm = norm(norm_kind, dim, epsilon=norm_epsilon)
        self.project_out = nn.Linear(dim, dim, bias=bias)

    def init_state(self, batch: int) -> ConvolutionState:
        state = self.depthwise.init_state(batch)
        if not self.pad_input:
            return state
        gated = F.glu(self.project_in(state.past.new_zeros(self.depthwise.dim)))
        return ConvolutionState(state.past + gated)

    def forward(
        self, x: Tensor, context: Context, state: ConvolutionState
    ) -> tuple[Tensor, ConvolutionState]:
        """(B, U, D) -> (B, U, D), the next state."""
        x, state = self.depthwise(F.glu(self.project_in(x)), context, state)
        return self.project_out(activate(self.norm(x), self.activation)), state
