"""The Triton lattice with durations against the reference: on a GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.losses.durations import DurationLattice, solve_durations, solve_durations_in_torch

pytest.importorskip("triton", reason="triton comes with torch's CUDA builds; `pip install triton` brings it")
from asr.losses.durations_gpu import solve_durations_on_gpu

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def draw(
    seed: int, durations: tuple[int, ...], frames: int, states: int, batch: int = 4
) -> tuple[DurationLattice, DurationLattice]:
    """Random arcs with lengths from none to all; and the same on the device."""
    make = torch.Generator().manual_seed(seed)
    symbol, blank = 3 * torch.randn(2, batch, frames, states, generator=make) - 3
    duration = (2 * torch.randn(batch, frames, states, len(durations), generator=make)).log_softmax(-1)
    token_lens = torch.randint(0, states, (batch,), generator=make)
    frame_lens = torch.randint(0, frames + 1, (batch,), generator=make)
    token_lens[0], frame_lens[0] = states - 1, frames
    lens = token_lens, frame_lens
    there = (x.to(DEVICE) for x in (symbol, blank, duration))
    return (
        DurationLattice(symbol, blank, duration, durations, *lens),
        DurationLattice(*there, durations, *(x.to(DEVICE) for x in lens)),
    )


@settings(deadline=None, max_examples=6)
@given(
    seed=st.integers(0, 2**32),
    durations=st.sampled_from([(0, 1, 2, 3, 4), (0, 1), (1, 2), (1,), (0, 1, 3), (2, 0, 1)]),
    frames=st.integers(0, 7),
    states=st.integers(1, 6),
)
def test_it_is_the_reference(seed: int, durations: tuple[int, ...], frames: int, states: int) -> None:
    case, moved = draw(seed, durations, frames, states)
    expected, flow = solve_durations_in_torch(case)
    scores, symbol, blank = (x.cpu() for x in solve_durations_on_gpu(*moved))
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-6)
    torch.testing.assert_close(symbol, flow.symbol, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(blank, flow.blank, atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(DEVICE == "cpu", reason="no GPU: the sizes of training take the interpreter minutes")
def test_sizes_of_training_and_where_the_lattice_goes() -> None:
    case, moved = draw(0, (0, 1, 2, 3, 4), 300, 90, batch=64)
    expected, flow = solve_durations_in_torch(case)
    scores, found = solve_durations(moved)
    torch.testing.assert_close(scores.cpu(), expected, atol=1e-3, rtol=1e-6)
    torch.testing.assert_close(found.symbol.cpu(), flow.symbol, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.blank.cpu(), flow.blank, atol=1e-4, rtol=1e-4)
