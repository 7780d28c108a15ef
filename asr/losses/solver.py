"""From the arcs of a lattice to losses: which paths are summed, and what the loss falls by with each arc.

FastEmit (Yu et al. 2021) makes tokens come sooner: the gradient of a token's arc counts 1 + `fastemit` times, that of
blanks once. The loss itself stays what it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from asr.losses.durations import DurationLattice, solve_durations
from asr.losses.lattice import Lattice, Topology, solve

__all__ = ["Flow", "Solver", "arcs_loss", "duration_solver", "lattice_solver"]


class Flow(NamedTuple):
    """What the loss falls by with the log-probability of each arc, (B, T, R), of durations (B, T, R, D) or None."""

    symbol: Tensor
    blank: Tensor
    duration: Tensor | None = None


Solver: TypeAlias = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Flow]]
"""Log-probabilities of symbol and blank (B, T, R), durations (B, T, R, D) -> of utterances (B,), and the flow."""


def lattice_solver(
    begin: Tensor | None, token_lens: Tensor, frame_lens: Tensor, topology: Topology, *, fastemit: float = 0.0
) -> Solver:
    """Of an RNN transducer; the arguments are those of a `Lattice`."""

    def solver(symbol: Tensor, blank: Tensor, _: Tensor | None) -> tuple[Tensor, Flow]:
        scores, flow = solve(Lattice(symbol, blank, begin, token_lens, frame_lens, topology))
        return scores, Flow(flow.symbol * (1 + fastemit) if fastemit else flow.symbol, flow.blank)

    return solver


def duration_solver(
    durations: tuple[int, ...],
    token_lens: Tensor,
    frame_lens: Tensor,
    *,
    sigma: float,
    omega: float,
    fastemit: float = 0.0,
) -> Solver:
    """Of a token-and-duration transducer (Xu et al. 2023).

    Each arc costs `sigma` more, so that long durations are preferred. The loss of the same tokens without durations has
    the weight `omega`: its expectation where the paper draws one of the two losses for each batch.
    """
    lens = token_lens, frame_lens
    of_tokens = lattice_solver(None, *lens, "regular", fastemit=fastemit)

    def solver(symbol: Tensor, blank: Tensor, duration: Tensor | None) -> tuple[Tensor, Flow]:
        assert duration is not None
        scores, taken = solve_durations(
            DurationLattice(symbol - sigma, blank - sigma, duration, durations, *lens)
        )
        by_symbol = taken.symbol * (1 + fastemit) if fastemit else taken.symbol
        by_duration = by_symbol + taken.blank
        flow = Flow(by_symbol.sum(3), taken.blank.sum(3), by_duration)
        if not omega:
            return scores, flow
        plain, plain_flow = of_tokens(symbol, blank, None)
        scores = (1 - omega) * scores + omega * plain
        possible = (scores > -torch.inf)[:, None, None]
        mixed = [
            ((1 - omega) * x + omega * y) * possible
            for x, y in ((flow.symbol, plain_flow.symbol), (flow.blank, plain_flow.blank))
        ]
        return scores, Flow(mixed[0], mixed[1], (1 - omega) * by_duration * possible[..., None])

    return solver


def arcs_loss(symbol: Tensor, blank: Tensor, duration: Tensor | None, solver: Solver) -> Tensor:
    """Losses (B,) of arcs, from which gradients flow on: infinite, and without a gradient, where there is no path."""
    return _ArcsLoss.apply(symbol, blank, duration, solver)


class _ArcsLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, symbol: Tensor, blank: Tensor, duration: Tensor | None, solver: Solver) -> Tensor:
        scores, flow = solver(symbol, blank, duration)
        ctx.save_for_backward(*flow)
        return -scores

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        symbol, blank, duration = ctx.saved_tensors
        scale = -gradient[:, None, None]
        return symbol * scale, blank * scale, None if duration is None else duration * scale[..., None], None
