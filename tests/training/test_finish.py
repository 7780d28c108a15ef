"""Which average becomes the bundle."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from asr.training.finish import Span, best_span, first_spans


def test_the_first_spans_are_the_end_of_the_run() -> None:
    assert first_spans(list(range(100, 1100, 100))) == [(900, 1000), (700, 1000), (500, 1000)]
    assert first_spans([50]) == [(0, 50)]
    assert first_spans([]) == []


@given(st.integers(2, 30), st.data())
def test_the_best_span_is_found(count: int, data: st.DataObject) -> None:
    """Where errors grow the further a span is from the best one, as they do but for noise."""
    stops = [0, *range(100, 100 * count + 1, 100)]
    end = data.draw(st.sampled_from(stops[1:]))
    best = (data.draw(st.sampled_from([stop for stop in stops if stop < end])), end)
    tried: list[Span] = []

    def score(span: Span) -> float:
        tried.append(span)
        return abs(span[0] - best[0]) + abs(span[1] - best[1])

    assert best_span(stops[1:], score, tries=1000) == best
    assert len(tried) == len(set(tried)) <= 80 and all(a < b for a, b in tried)


@given(st.integers(1, 30), st.integers(1, 20), st.randoms(use_true_random=False))
def test_it_is_the_best_of_those_tried_and_no_more_are(count: int, tries: int, random: object) -> None:
    scores: dict[Span, float] = {}

    def score(span: Span) -> float:
        return scores.setdefault(span, random.random())  # type: ignore[attr-defined]

    found = best_span(list(range(1, count + 1)), score, tries=tries)
    assert scores[found] == min(scores.values()) and len(scores) <= tries
