"""A joiner fused with the log-softmax and the lattice behind it: states are worked on in blocks, as rows of a matrix.

The logits of a block stay in the cache. A pruned lattice keeps them for the backward pass; a full one computes them
anew there, and no tensor of all states' logits or hidden values ever exists. The matrix products are torch's; what is
around them is one pass of the C kernels, or torch's where these are not for the tensors.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from asr.losses.fused import gradient_rows, score_rows
from asr.losses.lattice import NOTHING
from asr.losses.solver import Flow, Solver
from asr.native.library import address, available, library, plain

__all__ = ["Activation", "Joiner", "joiner_loss"]

Activation: TypeAlias = Literal["tanh", "relu"]

# Rows worked on at a time: on a CPU their logits and hidden values stay in the cache between the steps.
BLOCK = 1024
BLOCK_OF_GPU = 1 << 15


class Joiner(NamedTuple):
    """activation(encoder + predictor) @ weight.T + bias, and durations alike.

    encoder: (B, T, J); predictor: (B, S + 1, J); weight: (V, J); bias: (V,); of durations (D, J), (D,). What is None is
    left out.
    """

    encoder: Tensor
    predictor: Tensor
    weight: Tensor
    bias: Tensor | None = None
    duration_weight: Tensor | None = None
    duration_bias: Tensor | None = None


class _Rows(NamedTuple):
    """The states of all utterances that exist, as rows: each (N,) int64."""

    state: Tensor  # where in (B, T, R), flattened
    token: Tensor
    encoder: Tensor  # where in (B, T)
    predictor: Tensor  # where in (B, S + 1)

    def part(self, index: slice | Tensor) -> _Rows:
        return _Rows(*(x[index] for x in self))


def joiner_loss(
    joiner: Joiner, token: Tensor, ranges: Tensor, solver: Solver, *, activation: Activation, keep: bool
) -> Tensor:
    """Losses (B,). ranges: (B, T, R), each frame's states; token: theirs, -1 for none, -2 where there is no state.

    `keep` the logits for the backward pass, or compute them anew there.
    """
    state = (token.flatten() > -2).nonzero()[:, 0]
    frame = state // max(1, ranges.shape[2])
    utterance = frame // max(1, ranges.shape[1])
    prefix = utterance * joiner.predictor.shape[1] + ranges.flatten()[state]
    rows = _Rows(state, token.flatten()[state], frame, prefix)
    work = _Work(activation, available() and plain(joiner.encoder, joiner.predictor, joiner.weight))
    return _JoinerLoss.apply(*joiner, rows, ranges.shape, solver, work, keep and torch.is_grad_enabled())


class _JoinerLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        *parameters, rows, shape, solver, work, keep = inputs
        joiner: Any = Joiner._make(None if x is None else x.detach().contiguous() for x in parameters)
        count, size = len(rows.state), len(joiner.weight)
        new = joiner.weight.new_empty
        kept = new(count if keep else 0, size)
        symbol, blank, total = (new(count) for _ in range(3))
        durations = None if joiner.duration_weight is None else new(count, len(joiner.duration_weight))
        for block in work.blocks(count, joiner.weight):
            hidden = work.hidden(joiner, rows.part(block))
            logits = kept[block] if keep else new(len(hidden), size)
            torch.mm(hidden, joiner.weight.t(), out=logits)
            score_rows(logits, joiner.bias, rows.token[block], symbol[block], blank[block], total[block])
            if durations is not None:
                durations[block] = _durations(joiner, hidden)
        planes = [_plane(x, rows.state, shape) for x in (symbol, blank)]
        scores, flow = solver(*planes, None if durations is None else _plane(durations, rows.state, shape))
        ctx.keep, ctx.work, ctx.count = keep, work, len(rows)
        ctx.save_for_backward(*joiner, *rows, kept, total, durations, *flow)
        return -scores

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        saved, work = ctx.saved_tensors, ctx.work
        joiner: Any = Joiner(*saved[:6])
        saved = saved[6:]
        rows, (kept, total, durations, *planes) = _Rows(*saved[: ctx.count]), saved[ctx.count :]
        flow: Any = Flow._make(None if x is None else x.flatten(0, 2)[rows.state] for x in planes)
        # States with less give no gradient: it would be lost in the rounding of the others' sum. In a trained model
        # four of five states of a pruned lattice are such, and nearly all of a full one.
        row = (flow.symbol + flow.blank > torch.finfo(total.dtype).eps).nonzero()[:, 0]
        rows, total = rows.part(row), total[row]
        scale = scale[rows.encoder // max(1, joiner.encoder.shape[1])]
        symbol, blank = flow.symbol[row] * scale, flow.blank[row] * scale
        gradient: Any = Joiner._make(None if x is None else torch.zeros_like(x) for x in joiner)
        for block in work.blocks(len(row), joiner.weight):
            part = rows.part(block)
            hidden = work.hidden(joiner, part)
            logits = kept if ctx.keep else torch.addmm(joiner.bias, hidden, joiner.weight.t())
            to_logits = logits.new_empty(len(hidden), len(joiner.weight))
            gradient_rows(
                logits, row[block] if ctx.keep else None, part.token, total[block], symbol[block], blank[block],
                to_logits,
            )  # fmt: skip
            to_hidden = to_logits @ joiner.weight
            gradient.weight.addmm_(to_logits.t(), hidden)
            gradient.bias.add_(to_logits.sum(0))
            if durations is not None:
                taken = flow.duration[row[block]] * scale[block, None]
                to_durations = taken.sum(1, keepdim=True) * durations[row[block]].exp() - taken
                to_hidden.addmm_(to_durations, joiner.duration_weight)
                gradient.duration_weight.addmm_(to_durations.t(), hidden)
                gradient.duration_bias.add_(to_durations.sum(0))
            work.add_gradient(hidden, to_hidden, part, gradient)
        return *gradient, None, None, None, None, None


def _durations(joiner: Any, hidden: Tensor) -> Tensor:
    """(N, J) -> (N, D)."""
    logits: Tensor = torch.addmm(joiner.duration_bias, hidden, joiner.duration_weight.t())
    return logits.log_softmax(1)


def _plane(x: Tensor, state: Tensor, shape: torch.Size) -> Tensor:
    """Values of the rows (N, ...) -> of all states (B, T, R, ...)."""
    plane = x.new_full((shape.numel(), *x.shape[1:]), NOTHING)
    return plane.index_copy_(0, state, x).unflatten(0, shape)


class _Work(NamedTuple):
    """The hidden layer of some rows and its gradient, by the C kernels or by torch."""

    activation: Activation
    native: bool

    def blocks(self, count: int, like: Tensor) -> list[slice]:
        size = BLOCK if like.device.type == "cpu" else BLOCK_OF_GPU
        return [slice(i, min(i + size, count)) for i in range(0, count, size)]

    def hidden(self, joiner: Joiner, rows: _Rows) -> Tensor:
        encoder, predictor = joiner[:2]
        if not self.native:
            x = encoder.flatten(0, 1)[rows.encoder] + predictor.flatten(0, 1)[rows.predictor]
            return x.relu_() if self.activation == "relu" else x.tanh_()
        hidden = encoder.new_empty(len(rows.state), encoder.shape[2])
        library().rill_joiner_hidden(
            *map(address, (encoder, predictor, rows.encoder, rows.predictor, hidden)),
            *hidden.shape,
            self.activation == "relu",
            torch.get_num_threads(),
        )
        return hidden

    def add_gradient(self, hidden: Tensor, to_hidden: Tensor, rows: _Rows, gradient: Joiner) -> None:
        if not self.native:
            slope = (hidden > 0).to(hidden) if self.activation == "relu" else 1 - hidden.square()
            to_hidden = to_hidden * slope
            gradient.encoder.flatten(0, 1).index_add_(0, rows.encoder, to_hidden)
            gradient.predictor.flatten(0, 1).index_add_(0, rows.predictor, to_hidden)
            return
        library().rill_joiner_hidden_gradient(
            *map(
                address,
                (hidden, to_hidden, rows.encoder, rows.predictor, gradient.encoder, gradient.predictor),
            ),
            *hidden.shape,
            self.activation == "relu",
            torch.get_num_threads(),
        )
