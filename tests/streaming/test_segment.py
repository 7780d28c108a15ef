"""Words of segments that follow one another, with what is known of their times."""

from __future__ import annotations

from asr.calibration import Calibration
from asr.heads import Emission
from streaming.segment import Segment
from tests.search.lattices import tokenizer

LETTERS = tokenizer("ab▁")
KNOWN = Calibration(head="ctc", start=-0.2, end=0.3)


def segment(text: str, frames: list[int]) -> Segment:
    emissions = [Emission(t, f, -0.1) for t, f in zip(LETTERS.encode(text), frames, strict=True)]
    return Segment(LETTERS, frame_seconds=0.04, calibration=KNOWN, emissions=emissions)


def times(one: Segment, limit: float = 100.0) -> list[tuple[str, float, float]]:
    return [(word.text, word.start, word.end) for word in one.words(limit=limit)]


def test_a_segment_does_not_begin_in_the_one_before() -> None:
    done, rest = segment("a b", [10, 12, 14]).split(anywhere=False)
    assert times(done) == [("a", 0.2, 0.74)]
    rest.add(Emission(LETTERS.encode("b")[0], 16, -0.1))
    assert times(rest) == [("bb", 0.74, 0.98)]
    following = rest.empty()
    following.add(Emission(LETTERS.encode("a")[0], 25, -0.1))
    assert times(following) == [("a", 0.98, 1.34)]
    assert times(following.empty().empty()) == []


def test_no_time_is_beyond_what_was_heard() -> None:
    one = segment("a b", [10, 12, 14])
    assert times(one) == [("a", 0.2, 0.36), ("b", 0.36, 0.9)]
    assert times(one, limit=0.62) == [("a", 0.2, 0.36), ("b", 0.36, 0.62)]
    assert times(one, limit=0.3) == [("a", 0.2, 0.3), ("b", 0.3, 0.3)]
