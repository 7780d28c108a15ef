"""Delays and word times, on streams whose every token and time is known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.evaluate.decode import Step
from asr.evaluate.times import Delays, Said, Shown, Spread, WordTimes, matches
from asr.heads import Emission
from asr.text import normalizer
from asr.tokenizer import words
from asr.transcript import Word
from tests.search.lattices import tokenizer

LETTERS = tokenizer("ab▁")


def emissions(text: str, first: int = 0) -> list[Emission]:
    return [Emission(token, first + i, -0.1) for i, token in enumerate(LETTERS.encode(text))]


def test_what_is_shown_counts_from_when_it_stays():
    shown = Shown()
    shown.see(Step([[]], [emissions("ab")], [0.5], 0.0), 0)
    shown.see(Step([emissions("a")], [emissions("a", 1)], [1.0], 0.0), 0)  # "ab" becomes "aa"
    shown.see(Step([[]], [emissions("a", 1)], [1.5], 0.0), 0)
    shown.see(Step([emissions("ab", 1)], [[]], [2.0], 0.0), 0)
    assert "".join(LETTERS.piece(e.token) for e in shown.emissions) == "aab"
    assert shown.heard == [0.5, 1.0, 2.0]


@given(
    st.lists(
        st.tuples(st.lists(st.integers(1, 2), max_size=3), st.lists(st.integers(1, 2), max_size=3)),
        max_size=6,
    )
)
def test_every_token_has_a_time_and_none_goes_back(steps: list[tuple[list[int], list[int]]]):
    shown, final = Shown(), 0
    for number, (new, tail) in enumerate(steps):
        settled = [Emission(token, final + i, 0.0) for i, token in enumerate(new)]
        final += len(new)
        after = [Emission(token, final + i, 0.0) for i, token in enumerate(tail)]
        shown.see(Step([settled], [after], [float(number)], 0.0), 0)
        assert len(shown.heard) == len(shown.emissions) == final + len(tail)
        assert shown.heard == sorted(shown.heard)


def test_delays_of_one_utterance():
    truth = Said(
        (Word("ab", 0.1, 0.3, 1.0), Word("b", 0.4, 0.6, 1.0)),
        tuple(LETTERS.encode("ab b")),
        (0.2, 0.3, 0.4, 0.6),
    )
    said = emissions("ab b")
    shown = Shown(said, [0.5, 0.5, 1.0, 1.0])
    found = words(said, LETTERS, frame_seconds=0.1)
    delays = Delays()
    delays.add(truth, shown, found, LETTERS, str)
    assert delays.first == pytest.approx([0.4])
    assert delays.final == pytest.approx([0.4])
    assert delays.token == pytest.approx([0.3, 0.2, 0.6, 0.4])
    assert delays.word == pytest.approx([0.2, 0.4])
    times = WordTimes()
    times.add(truth, found, str)
    assert times.start == pytest.approx([-0.1, -0.1]) and times.end == pytest.approx([-0.1, -0.2])
    assert times.spreads()["end"] == Spread(pytest.approx(0.15), pytest.approx(0.15), pytest.approx(0.195), 2)
    delays.add(truth, Shown(), [], LETTERS, str)
    assert len(delays.first) == 1 and Delays().spreads() == {}


def test_words_match_as_they_are_normalized():
    put = normalizer(["lower", "numbers", "punctuation"])
    pairs, right = matches(["Room", "42,", "please"], ["room", "forty", "two", "-", "police"], put)
    assert pairs == [(0, 0), (1, 1), (1, 2), (None, None)][:3]
    assert right == [True, True, True, True, False]
    assert matches(["forty", "two"], ["42"], put) == ([(0, 0)], [True])
    assert matches(["forty", "one"], ["42"], put) == ([], [False])
