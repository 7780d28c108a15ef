"""The lattice of a token-and-duration transducer on a GPU: one Triton program an utterance, in float64.

Frames follow one another. What leads from earlier frames to a frame's states is added up for all of them at once;
tokens of 0 frames lead from state to state within a frame, which a parallel scan solves, as in `lattice_gpu`.

triton comes with torch's CUDA builds; `asr.losses.durations` imports this where both are there.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from asr.losses.lattice_gpu import IMPOSSIBLE, NOTHING, _add, _compose, _load, run

__all__ = ["solve_durations_on_gpu"]


@triton.jit
def _durations(
    symbol: tl.tensor, blank: tl.tensor, duration: tl.tensor, lengths: tl.tensor,
    token_lens: tl.tensor, frame_lens: tl.tensor, alpha: tl.tensor, beta: tl.tensor, scores: tl.tensor,
    symbol_flow: tl.tensor, blank_flow: tl.tensor, frames_most: tl.tensor, states: tl.tensor,
    COUNT: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """symbol, blank, alpha, beta: (B, T, S + 1); duration, flows: (B, T, S + 1, D); lengths: (D,); the others: (B,)."""
    b = tl.program_id(0).to(tl.int64)
    tokens, frames = tl.load(token_lens + b), tl.load(frame_lens + b)
    start = b * frames_most
    s = tl.arange(0, BLOCK)
    zero = s * 0  # makes a number a row, as the interpreter's masks do not take a single truth for all
    inside = (s < states) & (s <= tokens)
    speaks, spoken = inside & (s < tokens), inside & (s >= 1)
    nothing = tl.full((BLOCK,), NOTHING, tl.float64)

    left = tl.where((s == 0) & (frames == 0) & (tokens == 0), 0.0, nothing)  # by the last blank, of any frame
    t = frames * 0  # `while`, as Triton's interpreter cannot count to what it has loaded
    while t < frames:
        row = (start + t) * states
        enter, arc = tl.where((s == 0) & (t == 0), 0.0, nothing), nothing
        for k in range(COUNT):
            d = tl.load(lengths + k) + zero
            above, came = row - d * states, (d > 0) & (d <= t)
            there = inside & came
            way = _load(blank + above, s, there) + _load(duration + above * COUNT + k, s * COUNT, there)
            enter = _add(enter, _load(alpha + above, s, there) + way)
            there = spoken & (came | (d == 0))
            way = _load(symbol + above, s - 1, there)
            way += _load(duration + above * COUNT + k, (s - 1) * COUNT, there)
            enter = _add(enter, _load(alpha + above, s - 1, there & came) + way)
            arc = _add(arc, tl.where(d == 0, way, nothing))
        _, enter = tl.associative_scan((arc, enter), 0, _compose)
        enter = tl.maximum(enter, NOTHING)
        tl.store(alpha + row + s, enter, mask=s < states)
        tl.debug_barrier()  # later frames read what other threads have written
        for k in range(COUNT):
            d = tl.load(lengths + k) + zero
            there = inside & (s == tokens) & (d > 0) & (t + d == frames)
            way = _load(blank + row, s, there) + _load(duration + row * COUNT + k, s * COUNT, there)
            left = _add(left, enter + way)
        t += 1
    score = tl.maximum(tl.max(left, 0), NOTHING)
    tl.store(scores + b, score)

    possible = score > IMPOSSIBLE
    while t > 0:
        t -= 1
        row = (start + t) * states
        stay, go = _load(blank + row, s, inside), _load(symbol + row, s, speaks)
        here, arc = nothing, nothing
        for k in range(COUNT):
            d = tl.load(lengths + k) + zero
            below, on = row + d * states, (d > 0) & (t + d < frames)
            lasts = _load(duration + row * COUNT + k, s * COUNT, inside)
            ends = (d > 0) & (t + d == frames) & (s == tokens)
            end = tl.where(ends, 0.0, _load(beta + below, s, inside & on))
            here = _add(here, stay + lasts + end)
            here = _add(here, go + lasts + _load(beta + below, s + 1, speaks & on))
            arc = _add(arc, tl.where(d == 0, go + lasts, nothing))
        _, here = tl.associative_scan((arc, here), 0, _compose, reverse=True)
        tl.store(beta + row + s, tl.maximum(here, NOTHING), mask=s < states)
        tl.debug_barrier()
        reached = tl.load(alpha + row + s, mask=inside, other=NOTHING) - score
        for k in range(COUNT):
            d = tl.load(lengths + k) + zero
            below, on = row + d * states, t + d < frames
            lasts = _load(duration + row * COUNT + k, s * COUNT, inside)
            ends = (d > 0) & (t + d == frames) & (s == tokens)
            end = tl.where(ends, 0.0, _load(beta + below, s, inside & on & (d > 0)))
            by_blank = tl.where(possible, tl.exp(reached + stay + lasts + end), 0.0)
            next_one = _load(beta + below, s + 1, speaks & on)
            by_symbol = tl.where(possible, tl.exp(reached + go + lasts + next_one), 0.0)
            place = (row + s) * COUNT + k
            tl.store(symbol_flow + place, by_symbol, mask=s < states)
            tl.store(blank_flow + place, by_blank, mask=s < states)


def solve_durations_on_gpu(
    symbol: Tensor,
    blank: Tensor,
    duration: Tensor,
    durations: tuple[int, ...],
    token_lens: Tensor,
    frame_lens: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities (B,) and the occupation of symbol and blank arcs (B, T, S + 1, D): see `solve_durations`."""
    symbol, blank, duration = (x.detach().contiguous() for x in (symbol, blank, duration))
    lengths = torch.tensor(durations, device=symbol.device)
    return run(
        _durations, symbol, blank, duration, lengths, token_lens=token_lens, frame_lens=frame_lens, flows=duration,
        COUNT=len(durations),
    )  # fmt: skip
