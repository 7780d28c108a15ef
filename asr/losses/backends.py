"""Sums over transducer lattices by other libraries, k2 and torchaudio: where they are installed and ours has no kernel.

Both are given the arcs alone, (B, T, S + 1), not the logits behind them: torchaudio a vocabulary of two, the blank and
"the next token". So whatever solves a lattice, no logits are held for it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from asr.losses.lattice import NOTHING, Lattice, Occupation

__all__ = ["installed", "solve_with_k2", "solve_with_torchaudio"]


def installed(lattice: Lattice) -> Callable[[Lattice], tuple[Tensor, Occupation]] | None:
    """What another library has for a lattice, if there is one; with arguments and results as `lattice.solve`."""
    if lattice.symbol.numel() == 0:
        return None
    if importlib.util.find_spec("k2") is not None:
        return solve_with_k2
    fits = lattice.topology == "regular" and lattice.symbol.dtype is torch.float32
    if fits and importlib.util.find_spec("torchaudio") is not None:
        return solve_with_torchaudio
    return None


@torch.no_grad()
def solve_with_k2(lattice: Lattice) -> tuple[Tensor, Occupation]:
    """By `mutual_information_recursion`, which k2's losses are made of."""
    k2: Any = import_module("k2")
    symbol, blank, back = _whole(lattice)
    px = symbol[:, :, :-1].mT
    if (
        lattice.topology == "regular"
    ):  # there is one more column, and no token follows an utterance's last blank
        px = torch.nn.functional.pad(px, (0, 1))
        column = torch.arange(px.shape[2], device=px.device)
        px = px.masked_fill(column >= lattice.frame_lens[:, None, None], -torch.inf)
    zero = torch.zeros_like(lattice.token_lens)
    boundary = torch.stack([zero, zero, lattice.token_lens, lattice.frame_lens], 1)
    scores, (px_flow, py_flow) = k2.mutual_information_recursion(
        px.contiguous(), blank.mT.contiguous(), boundary, calc_gradients=True
    )
    by_symbol = torch.nn.functional.pad(px_flow[:, :, : symbol.shape[1]].mT, (0, 1))
    return back(scores, by_symbol, py_flow.mT)


def solve_with_torchaudio(lattice: Lattice) -> tuple[Tensor, Occupation]:
    """By `rnnt_loss`, whose gradient is the occupation. Regular topology only."""
    functional: Any = import_module("torchaudio.functional")
    symbol, blank, back = _whole(lattice)
    # It wants lengths of which one fills the tensor, and no utterance without frames.
    frames, tokens = max(1, int(lattice.frame_lens.max())), int(lattice.token_lens.max())
    arcs = torch.stack([blank, symbol], 3)[:, :frames, : tokens + 1].detach().contiguous().requires_grad_()
    with torch.enable_grad():
        loss = functional.rnnt_loss(
            arcs,
            torch.ones(len(arcs), tokens, dtype=torch.int32, device=arcs.device),
            lattice.frame_lens.clamp(min=1).int(),
            lattice.token_lens.int(),
            blank=0,
            reduction="none",
            fused_log_softmax=False,
        )
        (gradient,) = torch.autograd.grad(loss.sum(), arcs)
    none = lattice.frame_lens == 0
    scores = torch.where(none, torch.where(lattice.token_lens == 0, 0.0, NOTHING).to(loss), -loss.detach())
    gradient = gradient.masked_fill(none[:, None, None, None], 0.0)
    missing = (0, symbol.shape[2] - tokens - 1, 0, symbol.shape[1] - frames)
    by_blank, by_symbol = (-torch.nn.functional.pad(x, missing) for x in gradient.unbind(3))
    return back(scores, by_symbol, by_blank)


def _whole(lattice: Lattice) -> tuple[Tensor, Tensor, Callable[[Tensor, Tensor, Tensor], Any]]:
    """Arcs (B, T, S + 1) without a band, and what makes `solve`'s result of scores and occupation."""
    symbol, blank, begin, token_lens, *_ = lattice
    token = None
    if begin is not None:
        token = begin[:, :, None] + torch.arange(symbol.shape[2], device=symbol.device)
        states = 1 + max(int(token.max()), int(token_lens.max()))
        empty = symbol.new_full((*symbol.shape[:2], states), NOTHING)
        symbol, blank = empty.scatter(2, token, symbol), empty.scatter(2, token, blank)

    def back(scores: Tensor, by_symbol: Tensor, by_blank: Tensor) -> tuple[Tensor, Occupation]:
        possible = scores > NOTHING / 10
        parts = [torch.where(possible[:, None, None], x, 0.0) for x in (by_symbol, by_blank)]
        if token is not None:
            parts = [x.gather(2, token) for x in parts]
        scores = torch.where(possible | scores.isnan(), scores, -torch.inf).to(lattice.symbol.dtype)
        return scores, Occupation(*(x.to(lattice.symbol.dtype) for x in parts))

    return symbol, blank, back
