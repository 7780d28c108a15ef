"""Edges of words in a made-up loudness, and what holds for any."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.edges import LEAD, TRAIL, edges, loudness, sounding


def test_words_reach_to_where_the_sound_breaks_off() -> None:
    decibels = np.full(200, -70.0)
    decibels[20:60] = -20.0  # a word of 0.4 s, with a closure
    decibels[40:45] = -65.0
    decibels[90:150] = -20.0  # two words without a pause
    sound = sounding(decibels)
    assert sound is not None and sound[20:60].all() and sound[90:150].all() and sound.sum() == 100
    found = edges([(0.28, 0.48), (1.0, 1.08), (1.24, 1.28)], sound, 2.0)
    assert found == [(0.2, 0.6), (0.9, pytest.approx(1.24 - LEAD)), (pytest.approx(1.24 - LEAD), 1.5)]
    assert edges([(0.28, 0.48)], None, 2.0) == [(pytest.approx(0.28 - LEAD), pytest.approx(0.48 + TRAIL))]
    assert sounding(np.full(50, -30.0)) is None and sounding(np.zeros(0)) is None


def test_loudness_is_that_of_a_sine() -> None:
    wave = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(1650) / 16000)
    assert loudness(wave.astype(np.float32)) == pytest.approx([10 * np.log10(0.125)] * 10, abs=0.01)


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 20)), max_size=6),
    st.lists(st.booleans(), min_size=100, max_size=100) | st.none(),
    st.floats(0, 4),
)
def test_times_are_in_order_and_inside(
    gaps: list[tuple[int, int]], sound: list[bool] | None, duration: float
) -> None:
    peaks, at = [], 0
    for pause, length in gaps:
        peaks.append(((at + pause) * 0.04, (at + pause + length) * 0.04))
        at += pause + length
    found = edges(peaks, None if sound is None else np.array(sound), duration)
    times = [time for pair in found for time in pair]
    assert len(found) == len(peaks) and times == sorted(times)
    assert all(0 <= time <= duration for time in times)
