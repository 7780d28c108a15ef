"""Rows of logits -> the two log-probabilities of each that a lattice needs, and back: one pass over each row.

In C on a CPU; in torch elsewhere, where `score_rows` and `gradient_rows` make a few tensors of the rows' size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from asr.losses.lattice import NOTHING
from asr.losses.solver import Solver
from asr.native.library import address, available, library, plain

__all__ = ["fused_logits_loss", "gradient_rows", "score_rows"]

BLANK = 0


def fused_logits_loss(logits: Tensor, token: Tensor, solver: Solver) -> Tensor:
    """Losses (B,) from logits (B, T, R, V); token (B, T, R): -1 for none, -2 where there is no state."""
    return _LogitsLoss.apply(logits, token, solver)


class _LogitsLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, token: Tensor, solver: Solver) -> Tensor:
        logits, token = logits.detach().contiguous(), token.contiguous()
        symbol, blank, total = (logits.new_empty(token.shape) for _ in range(3))
        score_rows(logits, None, token, symbol, blank, total)
        scores, flow = solver(symbol, blank, None)
        ctx.save_for_backward(logits, token, total, flow.symbol, flow.blank)
        return -scores

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        logits, token, total, symbol, blank = ctx.saved_tensors
        scale = scale[:, None, None]
        gradient = torch.empty_like(logits)
        gradient_rows(logits, None, token, total, symbol * scale, blank * scale, gradient)
        return gradient, None, None


def score_rows(
    logits: Tensor, bias: Tensor | None, token: Tensor, symbol: Tensor, blank: Tensor, total: Tensor
) -> None:
    """Adds the bias in place, then fills symbol, blank and total (the log of the softmax's sum) for each row."""
    if available() and plain(logits):
        library().rill_logits_scores(
            *map(address, (logits, bias, token, symbol, blank, total)),
            token.numel(),
            logits.shape[-1],
            torch.get_num_threads(),
        )
        return
    if bias is not None:
        logits += bias
    torch.logsumexp(logits, -1, out=total)
    blank.copy_((logits[..., BLANK] - total).masked_fill(token < -1, NOTHING))
    chosen = logits.gather(-1, token.clamp(min=0)[..., None])[..., 0]
    symbol.copy_((chosen - total).masked_fill(token < 0, NOTHING))


def gradient_rows(
    logits: Tensor,
    row: Tensor | None,
    token: Tensor,
    total: Tensor,
    symbol: Tensor,
    blank: Tensor,
    out: Tensor,
) -> None:
    """Fills out (..., V) for the given rows of logits, all of them where `row` is None; symbol, blank: their flows."""
    if available() and plain(logits):
        library().rill_logits_gradient(
            *map(address, (logits, row, token, total, symbol, blank, out)),
            token.numel(),
            logits.shape[-1],
            torch.get_num_threads(),
        )
        return
    flow = symbol + blank
    logits = logits if row is None else logits[row]
    torch.exp(logits - total[..., None], out=out)
    out.mul_(flow[..., None]).masked_fill_((flow == 0)[..., None], 0.0)  # 0 times what is no state may be NaN
    out[..., BLANK] -= blank
    out.scatter_add_(-1, token.clamp(min=0)[..., None], -symbol.masked_fill(token < 0, 0.0)[..., None])
