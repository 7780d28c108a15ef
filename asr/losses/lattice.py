"""The sum over all paths of a transducer lattice: in C on a CPU, in Triton on a GPU; else by k2, torchaudio or torch.

Letters: B utterances, T frames, S tokens of the longest utterance, R states a frame (S + 1 in a full lattice).
State (t, s) has read t frames and given out s tokens. Its blank arc leads to (t + 1, s); its token arc to
(t, s + 1) in the regular topology (Graves 2012), to (t + 1, s + 1) in the modified one, where a token takes
its frame. Paths lead from (0, 0) to (frames, tokens).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from asr.native.library import address, available, library, plain

__all__ = ["Lattice", "Occupation", "Topology", "lattice_loss", "solve", "solve_in_torch"]

Topology: TypeAlias = Literal["regular", "modified"]

# Stands for log 0: finite, so that the difference of two of them is a number and not NaN.
NOTHING = -1e30
IMPOSSIBLE = -1e29


class Occupation(NamedTuple):
    """How often the paths of each utterance take each arc, (B, T, S + 1): the arcs' posterior probabilities."""

    symbol: Tensor
    blank: Tensor


class Lattice(NamedTuple):
    """Log-probabilities of the arcs that leave each state, with the lengths that bound the lattice.

    symbol, blank: (B, T, R). begin: (B, T) int64, the token of each frame's first state, or None where it is 0
    throughout. token_lens, frame_lens: (B,) int64.
    """

    symbol: Tensor
    blank: Tensor
    begin: Tensor | None
    token_lens: Tensor
    frame_lens: Tensor
    topology: Topology


def lattice_loss(lattice: Lattice) -> tuple[Tensor, Occupation]:
    """Minus the log-probability of each utterance's tokens, (B,), and the arcs' occupation, (B, T, R).

    Only the first is differentiable. An utterance without any path (more tokens than frames in the modified
    topology, tokens but no frames) has an infinite loss, no occupation and no gradient.
    """
    loss, symbol, blank = _LatticeLoss.apply(*lattice)
    return loss, Occupation(symbol, blank)


class _LatticeLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *lattice: Any) -> tuple[Tensor, Tensor, Tensor]:
        scores, flow = solve(Lattice(*lattice))
        ctx.save_for_backward(*flow)
        ctx.mark_non_differentiable(*flow)
        return -scores, *flow

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        symbol, blank = ctx.saved_tensors
        scale = -gradient[:, None, None]
        return symbol * scale, blank * scale, None, None, None, None


def solve(lattice: Lattice) -> tuple[Tensor, Occupation]:
    """Log-probability of each utterance, (B,), and the arcs' occupation, (B, T, R). Not differentiable.

    Minus infinity and no occupation: no path.
    """
    if lattice.symbol.is_cuda and (solve_on_gpu := triton_kernel("lattice_gpu", "solve_on_gpu")):
        scores, *parts = solve_on_gpu(*lattice[:-1], modified=lattice.topology == "modified")
        return scores, Occupation(*parts)
    if not (available() and plain(lattice.symbol, lattice.blank)):
        from asr.losses.backends import installed

        return (installed(lattice) or solve_in_torch)(lattice)
    symbol, blank = lattice.symbol.detach().contiguous(), lattice.blank.detach().contiguous()
    begin = None if lattice.begin is None else lattice.begin.contiguous()
    lens = lattice.token_lens.contiguous(), lattice.frame_lens.contiguous()
    flow = Occupation(torch.empty_like(symbol), torch.empty_like(blank))
    scores = symbol.new_empty(len(symbol), dtype=torch.float64)
    failed = library().rill_lattice(
        *map(address, (symbol, blank, begin, *lens, scores, *flow)),
        *symbol.shape,
        lattice.topology == "modified",
        torch.get_num_threads(),
    )
    if failed:
        raise MemoryError(f"no memory for the states of a transducer lattice of shape {tuple(symbol.shape)}")
    return scores.to(symbol.dtype), flow


@cache
def triton_kernel(module: str, name: str) -> Callable[..., tuple[Tensor, Tensor, Tensor]] | None:
    """A function of one of the modules of Triton kernels, where triton is installed."""
    try:
        found: Callable[..., tuple[Tensor, Tensor, Tensor]] = getattr(
            import_module(f"asr.losses.{module}"), name
        )
    except ImportError:
        return None
    return found


@torch.no_grad()
def solve_in_torch(lattice: Lattice) -> tuple[Tensor, Occupation]:
    """`solve` in plain torch operations, on any device: what the C kernel is held against. In float64 within."""
    kind = lattice.symbol.dtype
    begin, token_lens, frame_lens, topology = lattice[2:]
    symbol, blank = lattice.symbol.double(), lattice.blank.double()
    if begin is not None:
        token = begin[:, :, None] + torch.arange(symbol.shape[2], device=symbol.device)
        states = 1 + max(int(token.max()) if token.numel() else 0, int(token_lens.max()))
        symbol, blank = (_widen(x, token, states) for x in (symbol, blank))
    batch, frames, states = symbol.shape
    state = torch.arange(states, device=symbol.device)
    outside = torch.arange(frames, device=symbol.device)[None, :, None] >= frame_lens[:, None, None]
    symbol = symbol.masked_fill(outside | (state >= token_lens[:, None, None]), NOTHING).clamp(min=NOTHING)
    blank = blank.masked_fill(outside | (state > token_lens[:, None, None]), NOTHING).clamp(min=NOTHING)

    last = frame_lens
    if topology == "regular":  # along a diagonal t + s every arc leads to the next one: the other topology
        last = frame_lens + token_lens
        symbol, blank = skew(symbol), skew(blank)

    none = symbol.new_full((batch, 1), NOTHING)
    start = torch.where(state == 0, 0.0, NOTHING).to(symbol).expand(batch, -1)
    end = torch.where(state == token_lens[:, None], 0.0, NOTHING).to(symbol)
    before = [start]
    for s, b in zip(symbol.unbind(1), blank.unbind(1), strict=True):
        moved = torch.cat([none, (before[-1] + s)[:, :-1]], 1)
        before.append(torch.logaddexp(before[-1] + b, moved))
    alpha = torch.stack(before, 1)
    scores = alpha[torch.arange(batch, device=last.device), last].gather(1, token_lens[:, None])[:, 0]

    after = torch.where(last[:, None] == symbol.shape[1], end, NOTHING)
    flows = []
    for step in reversed(range(symbol.shape[1])):
        go = symbol[:, step] + torch.cat([after[:, 1:], none], 1)
        stay = blank[:, step] + after
        total = alpha[:, step] - scores[:, None]
        flows.append(torch.stack([(total + go).exp(), (total + stay).exp()]))
        after = torch.where(last[:, None] == step, end, torch.logaddexp(stay, go))
    possible = ~(scores < IMPOSSIBLE)
    scores = torch.where(possible, scores, -torch.inf).to(kind)
    if not flows:
        return scores, Occupation(torch.zeros_like(lattice.symbol), torch.zeros_like(lattice.blank))
    flow = torch.stack(flows[::-1], 2)
    # What is next to nothing becomes nothing: float32's denormal numbers would slow the caller's matrix products.
    flow = flow.masked_fill((flow < 1e-30) | ~possible[:, None, None], 0.0)
    parts = [_unskew(x, frames) if topology == "regular" else x for x in flow]
    if begin is not None:
        parts = [x.gather(2, token) for x in parts]
    return scores, Occupation(*(x.to(kind) for x in parts))


def _widen(band: Tensor, token: Tensor, states: int) -> Tensor:
    return band.new_full((*band.shape[:2], states), NOTHING).scatter(2, token, band)


def skew(plane: Tensor) -> Tensor:
    """(B, T, S + 1) -> (B, T + S, S + 1): entry (t, s) moves to (t + s, s)."""
    batch, frames, states = plane.shape
    step = torch.arange(frames + states - 1, device=plane.device)[:, None]
    frame = step - torch.arange(states, device=plane.device)
    inside = (frame >= 0) & (frame < frames)
    if not frames:
        return plane.new_full((batch, states - 1, states), NOTHING)
    index = frame.clamp(0, frames - 1).expand(batch, -1, -1)
    return plane.gather(1, index).masked_fill(~inside, NOTHING)


def _unskew(plane: Tensor, frames: int) -> Tensor:
    """The inverse of `_skew`."""
    batch, _, states = plane.shape
    step = torch.arange(frames, device=plane.device)[:, None] + torch.arange(states, device=plane.device)
    return plane.gather(1, step.expand(batch, -1, -1))
