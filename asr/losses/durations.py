"""The lattice of a token-and-duration transducer (Xu et al. 2023): in C on a CPU, in Triton on a GPU; else in torch.

From state (t, s) its token leads to (t + d, s + 1) and its blank to (t + d, s), for each duration d; there is no blank
of 0 frames. Paths lead from (0, 0) to (frames, tokens), and a blank is their last arc. An arc's probability is that of
its token times that of its duration. Letters as in `lattice`, and D durations.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from asr.losses.lattice import IMPOSSIBLE, NOTHING, skew, triton_kernel
from asr.native.library import address, available, library, plain

__all__ = ["DurationLattice", "DurationOccupation", "solve_durations", "solve_durations_in_torch"]


class DurationLattice(NamedTuple):
    """Log-probabilities: symbol, blank: (B, T, S + 1); duration: (B, T, S + 1, D), of the frames that `durations` name.

    token_lens, frame_lens: (B,) int64.
    """

    symbol: Tensor
    blank: Tensor
    duration: Tensor
    durations: tuple[int, ...]
    token_lens: Tensor
    frame_lens: Tensor


class DurationOccupation(NamedTuple):
    """How often paths take each token and each blank with each duration: both (B, T, S + 1, D)."""

    symbol: Tensor
    blank: Tensor


def solve_durations(lattice: DurationLattice) -> tuple[Tensor, DurationOccupation]:
    """Log-probability of each utterance, (B,), and the arcs' occupation. Not differentiable.

    Minus infinity and no occupation: no path.
    """
    kernel = triton_kernel("durations_gpu", "solve_durations_on_gpu") if lattice.symbol.is_cuda else None
    if kernel is not None:
        scores, *parts = kernel(*lattice)
        return scores, DurationOccupation(*parts)
    planes = tuple(x.detach().contiguous() for x in lattice[:3])
    if not (available() and plain(*planes)):
        return solve_durations_in_torch(lattice)
    lengths = torch.tensor(lattice.durations)
    lens = lattice.token_lens.contiguous(), lattice.frame_lens.contiguous()
    flow = DurationOccupation(torch.empty_like(planes[2]), torch.empty_like(planes[2]))
    scores = torch.empty(len(planes[0]), dtype=torch.float64)
    failed = library().rill_durations(
        *map(address, (*planes, lengths, *lens, scores, *flow)), *planes[2].shape, torch.get_num_threads()
    )
    if failed:
        raise MemoryError(
            f"no memory for the states of a transducer lattice of shape {tuple(planes[0].shape)}"
        )
    return scores.to(planes[0].dtype), flow


def solve_durations_in_torch(lattice: DurationLattice) -> tuple[Tensor, DurationOccupation]:
    """`solve_durations` in plain torch operations, on any device: what the kernels are held against. Float64 within.

    Along a diagonal t + s no state depends on another; autograd gives the occupation.
    """
    durations, token_lens, frame_lens = lattice[3:]
    batch, frames, states, count = lattice.duration.shape
    symbol, blank, duration = (x.detach().double() for x in lattice[:3])
    device = symbol.device
    t = torch.arange(frames, device=device)[None, :, None, None]
    s = torch.arange(states, device=device)[None, None, :, None]
    to, ends = t + torch.tensor(durations, device=device), frame_lens[:, None, None, None]
    tokens = token_lens[:, None, None, None]
    by_symbol = (symbol[..., None] + duration).masked_fill((to >= ends) | (s >= tokens), NOTHING)
    by_blank = (blank[..., None] + duration).masked_fill((to > ends) | (s > tokens) | (to == t), NOTHING)
    arcs = [x.clamp(min=NOTHING).requires_grad_() for x in (by_symbol, by_blank)]
    with torch.enable_grad():
        rows = [skew(x.movedim(3, 1).flatten(0, 1)).unflatten(0, (batch, count)).unbind(2) for x in arcs]
        last = (token_lens + frame_lens)[:, None]
        end = torch.where(s[0, 0, :, 0] == token_lens[:, None], 0.0, NOTHING).to(symbol)
        nothing = torch.full_like(end, NOTHING)
        diagonals = len(rows[0])
        beyond = max(durations) + 1
        after = [torch.where(last == n, end, nothing) for n in range(diagonals, diagonals + beyond)]
        for n in reversed(range(diagonals)):
            ways = []
            for k, d in enumerate(durations):
                moved = torch.cat([after[d][:, 1:], nothing[:, :1]], 1)
                ways += [rows[0][n][:, k] + moved]
                ways += [rows[1][n][:, k] + after[d - 1]] if d else []
            here = torch.where(last == n, end, torch.stack(ways).logsumexp(0))
            after = [here, *after[:-1]]
        scores = after[0][:, 0]
        possible = ~(scores.detach() < IMPOSSIBLE)
        flow = (
            torch.autograd.grad(scores.sum(), arcs, allow_unused=True)
            if scores.requires_grad
            else (None, None)
        )
    parts = [torch.zeros_like(x) if f is None else f for x, f in zip(arcs, flow, strict=True)]
    parts = [
        f.masked_fill(~possible[:, None, None, None] | (f < 1e-30), 0.0).to(lattice.symbol.dtype)
        for f in parts
    ]
    return torch.where(possible, scores.detach(), -torch.inf).to(lattice.symbol.dtype), DurationOccupation(
        *parts
    )
