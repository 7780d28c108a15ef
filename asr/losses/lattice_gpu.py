"""The transducer lattice on a GPU: one Triton program an utterance, in float64.

Frames follow one another; within a frame all states are reached at once. In the regular topology a frame's states
depend on each other, x[s] = log(exp(b[s]) + exp(x[s - 1] + a[s])), and such steps compose into steps of their own
kind, so a parallel scan solves them (Blelloch 1990) in log2(states) steps.

triton comes with torch's CUDA builds; `asr.losses.lattice` imports this where both are there. The compiler looks up
what arguments are annotated with: it must be Triton's own.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["run", "solve_on_gpu"]

NOTHING = tl.constexpr(-1e30)  # log 0, as in lattice.py
IMPOSSIBLE = tl.constexpr(-1e29)


@triton.jit
def _add(x: tl.tensor, y: tl.tensor) -> tl.tensor:
    """log(exp(x) + exp(y))."""
    high = tl.maximum(x, y)
    return high + tl.log(1.0 + tl.exp(tl.minimum(x, y) - high))


@triton.jit
def _compose(a1: tl.tensor, b1: tl.tensor, a2: tl.tensor, b2: tl.tensor) -> tl.tensor:
    """x -> add(b1, x + a1), then x -> add(b2, x + a2)."""
    return a1 + a2, _add(b2, b1 + a2)


@triton.jit
def _load(row: tl.tensor, column: tl.tensor, allowed: tl.tensor) -> tl.tensor:
    return tl.maximum(tl.load(row + column, mask=allowed, other=NOTHING).to(tl.float64), NOTHING)


@triton.jit
def _lattice(
    symbol: tl.tensor, blank: tl.tensor, begin: tl.tensor, token_lens: tl.tensor, frame_lens: tl.tensor,
    alpha: tl.tensor, beta: tl.tensor, scores: tl.tensor, symbol_flow: tl.tensor, blank_flow: tl.tensor,
    frames_most: tl.tensor, states: tl.tensor, BANDED: tl.constexpr, MODIFIED: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """symbol, blank, alpha, beta and the flows: (B, T, R); begin: (B, T); the others: (B,)."""
    b = tl.program_id(0).to(tl.int64)
    tokens, frames = tl.load(token_lens + b), tl.load(frame_lens + b)
    start = b * frames_most
    r = tl.arange(0, BLOCK)
    inside = r < states

    first = tl.zeros((), tl.int64)  # the token of the frame's first state
    score = tl.where(tokens == 0, 0.0, NOTHING).to(tl.float64)
    t = frames * 0  # `while`, as Triton's interpreter cannot count to what it has loaded
    while t < frames:
        row, before = (start + t) * states, first
        if BANDED:
            first = tl.load(begin + start + t)
        s = first + r
        if t == 0:
            enter = tl.where(s == 0, 0.0, NOTHING).to(tl.float64)
        else:
            above, column = row - states, first - before + r  # of the same token in the frame before
            there = inside & (column >= 0) & (column < states)
            enter = _load(alpha + above, column, there) + _load(blank + above, column, there & (s <= tokens))
            if MODIFIED:
                there = inside & (column >= 1) & (column <= states)
                moved = _load(symbol + above, column - 1, there & (s <= tokens))
                enter = _add(enter, _load(alpha + above, column - 1, there) + moved)
        if not MODIFIED:
            arc = _load(symbol + row, r - 1, inside & (r >= 1) & (s <= tokens))
            _, enter = tl.associative_scan((arc, enter), 0, _compose)
        tl.store(alpha + row + r, tl.maximum(enter, NOTHING), mask=inside)
        tl.debug_barrier()  # the next frame reads what other threads have written
        if t == frames - 1:
            leave = enter + _load(blank + row, r, inside & (s == tokens))
            if MODIFIED:
                leave = _add(leave, enter + _load(symbol + row, r, inside & (s == tokens - 1)))
            high = tl.max(leave, 0)
            score = tl.maximum(high + tl.log(tl.sum(tl.exp(leave - high), 0)), NOTHING)
        t += 1
    tl.store(scores + b, score)

    last, after = tokens, first
    possible = score > IMPOSSIBLE
    while t > 0:
        t -= 1
        row = (start + t) * states
        if BANDED:
            first = tl.load(begin + start + t)
        s = first + r
        arc = _load(symbol + row, r, inside & (s < tokens))
        stay = _load(blank + row, r, inside & (s <= tokens))
        if t == frames - 1:
            end = tl.where(s == last, 0.0, NOTHING).to(tl.float64)
            go = tl.where(s + 1 == last, 0.0, NOTHING).to(tl.float64)
        else:
            below, column = row + states, first - after + r
            end = _load(beta + below, column, inside & (column >= 0) & (column < states))
            go = _load(beta + below, column + 1, inside & (column >= -1) & (column < states - 1))
        leave = stay + end
        if MODIFIED:
            here = _add(leave, arc + go)
            tl.store(beta + row + r, tl.maximum(here, NOTHING), mask=inside)
            tl.debug_barrier()
        else:
            _, here = tl.associative_scan((arc, leave), 0, _compose, reverse=True)
            tl.store(beta + row + r, tl.maximum(here, NOTHING), mask=inside)
            tl.debug_barrier()
            go = _load(beta + row, r + 1, inside & (r + 1 < states))
        reached = tl.load(alpha + row + r, mask=inside, other=NOTHING) - score
        by_symbol = tl.where(possible, tl.exp(reached + arc + go), 0.0)
        by_blank = tl.where(possible, tl.exp(reached + leave), 0.0)
        tl.store(symbol_flow + row + r, by_symbol, mask=inside)
        tl.store(blank_flow + row + r, by_blank, mask=inside)
        after = first


def solve_on_gpu(
    symbol: Tensor,
    blank: Tensor,
    begin: Tensor | None,
    token_lens: Tensor,
    frame_lens: Tensor,
    *,
    modified: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities (B,) and the occupation of symbol and blank arcs (B, T, R): see `lattice.solve`."""
    symbol, blank = symbol.detach().contiguous(), blank.detach().contiguous()
    banded = token_lens if begin is None else begin.contiguous()
    return run(
        _lattice, symbol, blank, banded, token_lens=token_lens, frame_lens=frame_lens, flows=symbol,
        BANDED=begin is not None, MODIFIED=modified,
    )  # fmt: skip


def run(
    kernel: Any,
    symbol: Tensor,
    *arcs: Tensor,
    token_lens: Tensor,
    frame_lens: Tensor,
    flows: Tensor,
    **forms: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run a lattice's kernel, a program an utterance, with room for what it computes: scores (B,), and the flows by
    symbol and by blank, each like `flows`. symbol: (B, T, states); arcs: the kernel's other inputs before the lengths.
    """
    batch, frames, states = symbol.shape
    symbol_flow, blank_flow = torch.zeros_like(flows), torch.zeros_like(flows)
    alpha, beta = (symbol.new_empty(symbol.shape, dtype=torch.float64) for _ in range(2))
    scores = symbol.new_empty(batch, dtype=torch.float64)
    block = triton.next_power_of_2(states)
    if batch:
        kernel[(batch,)](
            symbol, *arcs, token_lens.contiguous(), frame_lens.contiguous(), alpha, beta, scores, symbol_flow,
            blank_flow, frames, states, BLOCK=block, num_warps=max(1, min(8, block // 32)),
            enable_fp_fusion=False, **forms,
        )  # fmt: skip
    return torch.where(scores < -1e29, -torch.inf, scores).to(symbol.dtype), symbol_flow, blank_flow
