"""The Triton lattice against the reference: on a GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.losses.lattice import Lattice, Topology, solve, solve_in_torch

pytest.importorskip("triton", reason="triton comes with torch's CUDA builds; `pip install triton` brings it")
from asr.losses.lattice_gpu import solve_on_gpu

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def draw(seed: int, frames: int, states: int, width: int | None, batch: int = 4) -> Lattice:
    """Random arcs with lengths from none to all; `width`: a band that goes from the first state to the last."""
    make = torch.Generator().manual_seed(seed)
    columns = states if width is None else min(width, states)
    symbol, blank = 3 * torch.randn(2, batch, frames, columns, generator=make)
    token_lens = torch.randint(0, states, (batch,), generator=make)
    frame_lens = torch.randint(0, frames + 1, (batch,), generator=make)
    token_lens[0], frame_lens[0] = states - 1, frames
    begin = None
    if width is not None:
        most = (token_lens - columns + 1).clamp(min=0)[:, None]
        steps = torch.rand(batch, frames, generator=make).cumsum(1) * states / max(1, frames)
        begin = torch.minimum((steps - steps[:, :1]).long(), most)
    return Lattice(symbol, blank, begin, token_lens, frame_lens, "regular")


@settings(deadline=None, max_examples=10)
@given(
    seed=st.integers(0, 2**32),
    frames=st.integers(0, 9),
    states=st.integers(1, 9),
    width=st.none() | st.integers(2, 4),
    topology=st.sampled_from(["regular", "modified"]),
)
def test_it_is_the_reference(
    seed: int, frames: int, states: int, width: int | None, topology: Topology
) -> None:
    lattice = draw(seed, frames, states, width)._replace(topology=topology)
    expected, flow = solve_in_torch(lattice)
    moved = [x.to(DEVICE) if isinstance(x, torch.Tensor) else x for x in lattice[:5]]
    scores, symbol, blank = (x.cpu() for x in solve_on_gpu(*moved, modified=topology == "modified"))
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-6)
    torch.testing.assert_close(symbol, flow.symbol, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(blank, flow.blank, atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(DEVICE == "cpu", reason="no GPU: the sizes of training take the interpreter minutes")
@pytest.mark.parametrize("width", [None, 5])
def test_sizes_of_training_and_where_the_lattice_goes(width: int | None) -> None:
    lattice = draw(0, 300, 90, width, batch=64)
    moved = Lattice(*(x.to(DEVICE) if isinstance(x, torch.Tensor) else x for x in lattice[:5]), "regular")  # type: ignore[arg-type]
    expected, flow = solve_in_torch(lattice)
    scores, found = solve(moved)
    torch.testing.assert_close(scores.cpu(), expected, atol=1e-3, rtol=1e-6)
    torch.testing.assert_close(found.symbol.cpu(), flow.symbol, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.blank.cpu(), flow.blank, atol=1e-4, rtol=1e-4)
