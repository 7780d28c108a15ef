"""The parts of a Zipformer block (Yao et al. 2023, "Zipformer: a faster and better encoder for ASR", section 3).

B streams, n chunks, c frames in a chunk, L frames of left context before it, U = n c, D dim, H heads.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr.encoders.regularizers import Balancer, Schedule, Scheduled, Whiten, limit_gradient
from asr.native import chunk_causal_convolution, depthwise_convolution, swoosh_l, swoosh_r
from asr.native.attention import Seen, attention_values, attention_weights
from asr.native.gates import bypass, gate, masked_swoosh_l

__all__ = [
    "Attention",
    "AttentionWeights",
    "BiasNorm",
    "Bypass",
    "Context",
    "Convolution",
    "FeedForward",
    "NonlinearAttention",
    "RelativePositions",
    "scaled_linear",
]


def scaled_linear(inputs: int, outputs: int, *, scale: float, bias: bool = True) -> nn.Linear:
    """A linear layer that starts small: weights times `scale`, bias within 0.1 `scale`."""
    linear = nn.Linear(inputs, outputs, bias=bias)
    with torch.no_grad():
        linear.weight *= scale
        if bias:
            nn.init.uniform_(linear.bias, -0.1 * scale, 0.1 * scale)
    return linear


@dataclass(frozen=True)
class Context:
    """What the frames of one step may see, at the rate of one stack.

    positions: (L + 2 c, P), encodings of key - query from -(L + c) to c - 1.
    """

    seen: Seen
    positions: Tensor

    def remember(self, cache: Tensor, x: Tensor) -> Tensor:
        """(B, L, D), (B, U, D) -> the next cache."""
        left = self.seen.left
        return x[:, x.shape[1] - left :] if x.shape[1] >= left else torch.cat([cache[:, x.shape[1] :], x], 1)


class RelativePositions(nn.Module):
    """Sines and cosines of a compressed distance: near positions are told apart finely, far ones coarsely.

    A distance x becomes atan(c sign(x) (log(|x| + c) - log c) / s) with c = sqrt(P), s = P / 2 pi; the last of the P
    values is 1, so that the projection of the encoding has a bias.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("table", torch.empty(0, dim), persistent=False)
        self.table: Tensor

    def forward(self, left: int, chunk: int, like: Tensor) -> Tensor:
        """Encodings of -(left + chunk) ... chunk - 1, in the dtype and on the device of `like`."""
        reach = left + chunk
        if len(self.table) <= 2 * reach or self.table.dtype != like.dtype or self.table.device != like.device:
            self.table = self._encode(max(reach, len(self.table) // 2)).to(like)
        zero = len(self.table) // 2
        return self.table[zero - reach : zero + chunk]

    def _encode(self, reach: int) -> Tensor:
        x = torch.arange(-reach, reach + 1, dtype=torch.float64)
        squeeze = self.dim**0.5
        x = squeeze * x.sign() * ((x.abs() + squeeze) / squeeze).log()
        angle = (x / (self.dim / (2 * torch.pi))).atan()[:, None] * torch.arange(1, self.dim // 2 + 1)
        table = torch.stack([angle.cos(), angle.sin()], 2).flatten(1)
        table[:, -1] = 1.0
        return table


class BiasNorm(nn.Module):
    """x / rms(x - bias) * exp(log_scale): keeps the length of a vector where a layer norm loses it."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.empty(dim).normal_(std=1e-4))
        self.log_scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        log_scale = limit_gradient(self.log_scale, -1.5, 1.5) if self.training else self.log_scale
        scale = (
            torch.linalg.vector_norm(x - self.bias, dim=-1, keepdim=True).reciprocal() * x.shape[-1] ** 0.5
        )
        return x * (scale * log_scale.exp())


class Bypass(Scheduled):
    """A learned mixture, channel by channel, of a module's input and its output."""

    least = Schedule((0.0, 0.9), (20000.0, 0.2))

    def __init__(self, dim: int, *, skip_rate: Schedule | None = None) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((dim,), 0.5))
        self.skip_rate = skip_rate

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        scale: Tensor = self.scale
        if self.training:
            scale = limit_gradient(scale, self.now(self.least), 1.0)
            if self.skip_rate is not None and (rate := self.now(self.skip_rate)) > 0:
                scale = scale * (torch.rand(len(x), 1, 1, device=x.device) >= rate).to(x.dtype)
        return bypass(x, y, scale.to(x.dtype))


class AttentionWeights(Scheduled):
    """Multi-head attention weights with relative positions, computed once for three uses in a block."""

    def __init__(
        self, dim: int, *, heads: int, query_dim: int, position_head_dim: int, position_dim: int
    ) -> None:
        super().__init__()
        self.heads = heads
        self.sizes = [heads * query_dim, heads * query_dim, heads * position_head_dim]
        self.project = scaled_linear(dim, sum(self.sizes), scale=query_dim**-0.25)
        self.project_positions = scaled_linear(position_dim, self.sizes[2], scale=0.05, bias=False)
        self.balancer = Balancer(
            positive=(0.4, 0.6), absolute=(0.0, 100.0), probability=Schedule((0.0, 0.025))
        )
        self.whiten = Whiten(Schedule((0.0, 6.0), (20000.0, 3.0)), groups=heads, scale=0.025)
        self.key_dim = self.sizes[1]

    def forward(self, x: Tensor, context: Context, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, U, D) -> weights (B, n, H, c, L + c), those of the first head (B, n, 1, c, L + c), the next key cache."""
        x = self.project(x)
        query, key, place = x.split(self.sizes, -1)
        if (regular := self.whiten(self.balancer(key))) is not key:
            x = torch.cat([query, regular, place], -1)
        table = self.project_positions(self._distances(context)).t()
        weights, first = attention_weights(
            x, keys, table, context.seen, heads=self.heads,
            size=self.sizes[1] // self.heads, position=self.sizes[2] // self.heads,
        )  # fmt: skip
        return weights, first, context.remember(keys, key)

    def _distances(self, context: Context) -> Tensor:
        return F.dropout(context.positions, 0.15) if self.training else context.positions


class Attention(nn.Module):
    """The values of an attention whose weights are given."""

    def __init__(self, dim: int, *, heads: int, value_dim: int) -> None:
        super().__init__()
        self.heads, self.value_dim = heads, heads * value_dim
        self.project_in = nn.Linear(dim, self.value_dim)
        self.project_out = scaled_linear(self.value_dim, dim, scale=0.05)
        self.whiten = Whiten(Schedule((0.0, 15.0), (20000.0, 7.5)))

    def forward(self, x: Tensor, weights: Tensor, context: Context, values: Tensor) -> tuple[Tensor, Tensor]:
        value = self.project_in(x)
        y = attention_values(value, values, weights, context.seen)
        return self.whiten(self.project_out(y)), context.remember(values, value)


class NonlinearAttention(Scheduled):
    """Attention by one head's weights over gated values, gated again after it."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.project_in = nn.Linear(dim, 3 * hidden)
        self.project_out = scaled_linear(hidden, dim, scale=0.05)
        self.balancer = Balancer(
            positive=(Schedule((0.0, 0.25), (20000.0, 0.05)), Schedule((0.0, 0.75), (20000.0, 0.95))),
            absolute=(0.5, 5.0),
        )
        self.whiten_in = Whiten(5.0)
        self.whiten_out = Whiten(Schedule((0.0, 15.0), (20000.0, 5.0)))

    def forward(self, x: Tensor, weights: Tensor, context: Context, values: Tensor) -> tuple[Tensor, Tensor]:
        gate_in, value, gate_out = self.project_in(x).chunk(3, -1)
        value = self.whiten_in(value) * self.balancer(gate_in).tanh()
        y = attention_values(value, values, weights, context.seen) * gate_out
        return self.whiten_out(self.project_out(y)), context.remember(values, value)


class FeedForward(Scheduled):
    """Two linear layers around SwooshL."""

    dropout = Schedule((0.0, 0.3), (20000.0, 0.1))

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.project_in = nn.Linear(dim, hidden)
        self.project_out = scaled_linear(hidden, dim, scale=0.1)
        self.balancer = Balancer(positive=(0.3, 1.0), absolute=(0.75, 5.0))
        self.whiten = Whiten(Schedule((0.0, 15.0), (20000.0, 7.5)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.balancer(self.project_in(x))
        if self.training:  # one mask for all frames of an utterance
            x = masked_swoosh_l(x, F.dropout(x.new_ones(len(x), 1, x.shape[2]), self.now(self.dropout)))
        else:
            x = swoosh_l(x)
        return self.whiten(self.project_out(x))


class Convolution(Scheduled):
    """Gate, depthwise convolution, SwooshR, projection.

    The causal form is the sum of a convolution that sees `kernel // 2` frames of the past and one that sees the whole
    chunk and nothing outside, whose output is scaled near the chunk's edges, where it sees less.
    """

    def __init__(self, dim: int, kernel: int, *, causal: bool) -> None:
        super().__init__()
        self.dim, self.kernel, self.causal = dim, kernel, causal
        self.project_in = nn.Linear(dim, 2 * dim)
        if causal:
            self.past = nn.Conv1d(dim, dim, kernel // 2 + 1, groups=dim)
            self.edge_scale = nn.Parameter(torch.zeros(2, dim, kernel))
        self.chunkwise = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.project_out = scaled_linear(dim, dim, scale=0.05)
        self.balancer_in = Balancer(
            positive=(Schedule((0.0, 0.05), (8000.0, 0.025)), 1.0),
            absolute=(1.5, Schedule((0.0, 5.0), (8000.0, 10.0))),
        )
        self.balancer_out = Balancer(
            positive=(Schedule((0.0, 0.1), (8000.0, 0.05)), 1.0),
            absolute=(Schedule((0.0, 0.2), (20000.0, 0.5)), 10.0),
        )
        self.whiten = Whiten(Schedule((0.0, 15.0), (20000.0, 7.5)))

    @property
    def history(self) -> int:
        return self.kernel // 2 if self.causal else 0

    def forward(self, x: Tensor, context: Context, past: Tensor) -> tuple[Tensor, Tensor]:
        """(B, U, D), (B, kernel // 2, D) -> (B, U, D), the next past."""
        x = self.project_in(x)
        value, opening = x.chunk(2, -1)
        if (balanced := self.balancer_in(opening)) is not opening:
            x = torch.cat([value, balanced], -1)
        x = gate(x, context.seen.end)
        (weight, bias), chunk = self.chunkwise.parameters(), context.seen.chunk
        if self.causal:
            (past_weight, past_bias), edges = self.past.parameters(), self._edges(chunk)
            turned = past.transpose(1, 2)
            y = chunk_causal_convolution(x, turned, past_weight, past_bias, weight, bias, edges, chunk=chunk)
            last = x[:, max(0, x.shape[1] - self.history) :]
            past = torch.cat([past, last], 1)[:, last.shape[1] :]
        else:
            y = depthwise_convolution(x, weight, bias, chunk=chunk)
        y = swoosh_r(self.balancer_out(y))
        return self.whiten(self.project_out(y)), past

    def _edges(self, chunk: int) -> Tensor:
        """(D, c): 1 inside, learned near the edges."""
        left, right = self.edge_scale[:, :, : min(chunk, self.kernel)], self.edge_scale[:, :, -chunk:]
        rest = max(0, chunk - self.kernel)
        return 1.0 + F.pad(left[0], (0, rest)) + F.pad(right[1], (rest, 0))


def skip_sequences(x: Tensor, rate: float) -> Tensor:
    """Zero a module's output for a random share of the utterances."""
    if rate == 0.0:
        return x
    return x * (torch.rand(len(x), 1, 1, device=x.device) >= rate).to(x.dtype)


def blur_weights(weights: Tensor, rate: float) -> Tensor:
    """In a share `rate` of the batches, attend evenly to all that has any weight."""
    if rate == 0.0 or random.random() >= rate:
        return weights
    weights = (weights > 0).to(weights.dtype)
    return weights / weights.sum(-1, keepdim=True)
