"""The pruned lattice fused with the log-softmax before it and the joiner before that, on the C kernels.

The matrix products are torch's; everything around them is one pass over rows that are still in the cache.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from asr.losses.lattice import NOTHING, Lattice, Topology, solve
from asr.native.library import address, library

__all__ = ["fused_joiner_loss", "fused_logits_loss"]

# Rows of the joiner worked on at a time: their logits and hidden values stay in the cache between the steps.
BLOCK = 1024

# States with less occupation give no gradient: it would be lost in the rounding of the others' float32 sum.
# In a trained model four of five states are such.
FAINT = 1e-7


class _Rows(NamedTuple):
    """The states of all utterances that exist, as rows: each (N,) int64."""

    state: Tensor  # where in (B, T, R), flattened
    token: Tensor
    encoder: Tensor  # where in (B, T)
    predictor: Tensor  # where in (B, S + 1)


def fused_logits_loss(
    logits: Tensor, token: Tensor, begin: Tensor, token_lens: Tensor, frame_lens: Tensor, topology: Topology
) -> Tensor:
    """Losses (B,) from logits (B, T, R, V); token (B, T, R): -1 for none, -2 where there is no state."""
    return _LogitsLoss.apply(logits, token, begin, token_lens, frame_lens, topology)


class _LogitsLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, token: Tensor, *bounds: Any) -> Tensor:
        logits, token = logits.contiguous(), token.contiguous()
        symbol, blank, total = (torch.empty(token.shape) for _ in range(3))
        _score(logits, None, token, symbol, blank, total)
        scores, flow = solve(Lattice(symbol, blank, *bounds))
        ctx.save_for_backward(logits, token, total, *flow)
        return -scores

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        logits, token, total, symbol, blank = ctx.saved_tensors
        scale = scale[:, None, None]
        gradient = torch.empty_like(logits)
        _gradient(logits, None, token, total, symbol * scale, blank * scale, gradient)
        return gradient, None, None, None, None, None


def fused_joiner_loss(
    encoder: Tensor,
    predictor: Tensor,
    weight: Tensor,
    bias: Tensor,
    token: Tensor,
    ranges: Tensor,
    token_lens: Tensor,
    frame_lens: Tensor,
    topology: Topology,
) -> Tensor:
    """Losses (B,) of tanh(encoder + predictor) @ weight.T + bias; `token` as in `fused_logits_loss`."""
    state = (token.flatten() > -2).nonzero()[:, 0]
    frame = state // ranges.shape[2]
    utterance = frame // max(1, ranges.shape[1])
    prefix = utterance * predictor.shape[1] + ranges.flatten()[state]
    rows = _Rows(state, token.flatten()[state], frame, prefix)
    grad = torch.is_grad_enabled()
    bounds = token_lens, frame_lens, topology
    return _JoinerLoss.apply(encoder, predictor, weight, bias, grad, ranges, rows, bounds)


class _JoinerLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        encoder: Tensor,
        predictor: Tensor,
        weight: Tensor,
        bias: Tensor,
        grad: bool,
        ranges: Tensor,
        rows: _Rows,
        bounds: tuple[Tensor, Tensor, Topology],
    ) -> Tensor:
        encoder, predictor, bias = encoder.contiguous(), predictor.contiguous(), bias.contiguous()
        count, (size, width) = len(rows.state), weight.shape
        # Only the backward pass needs the logits again: without it one block of them is enough.
        logits = torch.empty(count if grad else min(count, BLOCK), size)
        symbol, blank, total = (torch.empty(count) for _ in range(3))
        hidden = torch.empty(min(count, BLOCK), width)
        for i in range(0, count, BLOCK):
            j = min(i + BLOCK, count)
            x = logits[i:j] if grad else logits[: j - i]
            h = _hidden(encoder, predictor, rows.encoder[i:j], rows.predictor[i:j], hidden)
            torch.mm(h, weight.t(), out=x)
            _score(x, bias, rows.token[i:j], symbol[i:j], blank[i:j], total[i:j])
        planes = [
            torch.full((ranges.numel(),), NOTHING).index_copy_(0, rows.state, x) for x in (symbol, blank)
        ]
        symbol, blank = (x.view(ranges.shape) for x in planes)
        scores, flow = solve(Lattice(symbol, blank, ranges[:, :, 0], *bounds))
        if grad:
            ctx.save_for_backward(encoder, predictor, weight, *rows, logits, total, *flow)
        return -scores

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        encoder, predictor, weight, *kept, logits, total, symbol, blank = ctx.saved_tensors
        rows = _Rows(*kept)
        row = ((symbol + blank).flatten()[rows.state] > FAINT).nonzero()[:, 0]
        rows = _Rows(*(x[row] for x in rows))
        scale = scale[:, None, None]
        symbol, blank, total = (
            (symbol * scale).flatten()[rows.state],
            (blank * scale).flatten()[rows.state],
            total[row],
        )
        to_encoder, to_predictor = torch.zeros_like(encoder), torch.zeros_like(predictor)
        to_weight, to_bias = torch.zeros_like(weight), weight.new_zeros(len(weight))
        count, (size, width) = len(row), weight.shape
        hidden, to_hidden = (torch.empty(min(count, BLOCK), width) for _ in range(2))
        to_logits = torch.empty(min(count, BLOCK), size)
        for i in range(0, count, BLOCK):
            j = min(i + BLOCK, count)
            g, dh = to_logits[: j - i], to_hidden[: j - i]
            _gradient(logits, row[i:j], rows.token[i:j], total[i:j], symbol[i:j], blank[i:j], g)
            h = _hidden(encoder, predictor, rows.encoder[i:j], rows.predictor[i:j], hidden)
            torch.mm(g, weight, out=dh)
            to_weight.addmm_(g.t(), h)
            to_bias += g.sum(0)
            library().rill_joiner_hidden_gradient(
                *map(address, (h, dh, rows.encoder[i:j], rows.predictor[i:j], to_encoder, to_predictor)),
                *h.shape,
                torch.get_num_threads(),
            )
        return to_encoder, to_predictor, to_weight, to_bias, None, None, None, None


def _hidden(
    encoder: Tensor, predictor: Tensor, encoder_row: Tensor, predictor_row: Tensor, out: Tensor
) -> Tensor:
    hidden = out[: len(encoder_row)]
    library().rill_joiner_hidden(
        *map(address, (encoder, predictor, encoder_row, predictor_row, hidden)),
        *hidden.shape,
        torch.get_num_threads(),
    )
    return hidden


def _score(
    logits: Tensor, bias: Tensor | None, token: Tensor, symbol: Tensor, blank: Tensor, total: Tensor
) -> None:
    """Adds the bias in place, then fills symbol, blank and total (the log of the softmax's sum) for each row."""
    library().rill_logits_scores(
        *map(address, (logits, bias, token, symbol, blank, total)),
        token.numel(),
        logits.shape[-1],
        torch.get_num_threads(),
    )


def _gradient(
    logits: Tensor,
    row: Tensor | None,
    token: Tensor,
    total: Tensor,
    symbol: Tensor,
    blank: Tensor,
    out: Tensor,
) -> None:
    """Fills out (..., V) for the given rows of logits, all of them where `row` is None."""
    library().rill_logits_gradient(
        *map(address, (logits, row, token, total, symbol, blank, out)),
        token.numel(),
        logits.shape[-1],
        torch.get_num_threads(),
    )
