"""Where segments end, and the frames that are kept of them."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from asr.search.beam import EVERY
from asr.search.segments import append, boundary, drop, pieces


def test_a_segment_ends_in_the_middle_of_a_pause() -> None:
    assert boundary([3, 10], 30, lag=20, room=100) == 0
    assert boundary([3, 10], 31, lag=20, room=100) == 21
    assert boundary([], 99, lag=20, room=100) == 0
    assert boundary(None, 99, lag=20, room=100) == 0


def test_a_segment_without_a_pause_is_cut_in_its_widest_gap() -> None:
    said = [5, 20, 50, 60, 71, 80, 95]
    assert boundary(said, 100, lag=20, room=100) == 88  # between 80 and 95; the one after 20 is too early
    assert boundary([*range(99)], 100, lag=20, room=100) in range(51, 100)
    assert boundary([], 100, lag=20, room=100) == 80  # nothing was said: the pause before a word is kept
    assert boundary(None, 100, lag=20, room=100) == 100


@given(
    said=st.none() | st.sets(st.integers(0, 99)).map(sorted),
    lag=st.integers(1, 10_000),
    room=st.integers(24, 100),
)
def test_a_segment_never_outgrows_its_room(said: list[int] | None, lag: int, room: int) -> None:
    said = None if said is None else [frame for frame in said if frame < room]
    assert 0 < boundary(said, room, lag=lag, room=room) <= room


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 50)), min_size=1, max_size=4))
def test_steps_are_cut_at_the_same_frames_however_they_come(streams: list[tuple[int, int]]) -> None:
    frame, lens = [f for f, _ in streams], [n for _, n in streams]
    found = list(pieces(frame, lens))
    assert [piece.start for piece in found] == [0, *(piece.stop for piece in found)][: len(found)]
    assert (found[-1].stop if found else 0) == max(lens)
    for begin, n in streams:
        wanted = {u for u in range(1, n + 1) if (begin + u) % EVERY == 0}
        assert wanted <= {piece.stop for piece in found}


def test_frames_come_and_go() -> None:
    frames = torch.arange(1, 9, dtype=torch.float32).view(2, 4, 1)
    y = torch.arange(11, 15, dtype=torch.float32).view(2, 2, 1)
    joined = append(frames, torch.tensor([4, 1]), y, torch.tensor([1, 2]))
    assert joined[..., 0].tolist() == [[1, 2, 3, 4, 11], [5, 13, 14, 0, 0]]
    assert drop(joined, torch.tensor([4, 0]))[..., 0].tolist() == [[11, 0, 0, 0, 0], [5, 13, 14, 0, 0]]
    assert append(frames, torch.tensor([0, 0]), y[:, :0], torch.tensor([0, 0])).shape == (2, 0, 1)
