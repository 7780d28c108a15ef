"""Counts of errors against the edit distance; alignments, confusions, intervals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.evaluate import Errors, count_errors
from asr.evaluate.errors import Confusion, align_words, confusions, interval


@pytest.mark.parametrize(
    ("reference", "hypothesis", "words", "characters"),
    [
        ("the cat sat", "the cat sat", Errors(0, 0, 0, 3), Errors(0, 0, 0, 11)),
        ("the cat sat", "the bat sat", Errors(1, 0, 0, 3), Errors(1, 0, 0, 11)),
        ("the cat sat", "the sat", Errors(0, 1, 0, 3), Errors(0, 4, 0, 11)),
        ("the cat sat", "the cat sat on", Errors(0, 0, 1, 3), Errors(0, 0, 3, 11)),
        ("a b c d", "x a c e", Errors(1, 1, 1, 4), Errors(3, 0, 0, 7)),
        ("", "noise", Errors(0, 0, 1, 0), Errors(0, 0, 5, 0)),
        ("all gone", "", Errors(0, 2, 0, 2), Errors(0, 8, 0, 8)),
        ("  spaces   do  ", "spaces do", Errors(0, 0, 0, 2), Errors(0, 0, 0, 9)),
        ("naïve 北京", "naive 北京", Errors(1, 0, 0, 3), Errors(1, 0, 0, 8)),
    ],
)
def test_counts(reference: str, hypothesis: str, words: Errors, characters: Errors):
    found = count_errors([reference], [hypothesis])
    assert (found.total, found.length) == (words.total, words.length)
    if "x a" not in hypothesis:  # of several best alignments any will do
        assert found == words
    letters = count_errors([reference], [hypothesis], characters=True)
    assert (letters.total, letters.length) == (characters.total, characters.length)


def test_rates_and_sums():
    total = count_errors(["a b", "c d e f"], ["a", "c x e f g"])
    assert total == Errors(1, 1, 1, 6)
    assert total.total == 3
    assert total.rate == 0.5
    assert Errors(0, 0, 2, 0).rate == 2.0
    assert Errors(1, 2, 3, 4) + Errors(1, 1, 1, 1) == Errors(2, 3, 4, 5)
    with pytest.raises(ValueError, match="zip"):
        count_errors(["a"], [])


def distance(a: list[str], b: list[str]) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


texts = st.lists(st.sampled_from("abc"), max_size=8).map(" ".join)


@given(texts, texts)
def test_the_total_is_the_edit_distance(a: str, b: str):
    found = count_errors([a], [b])
    assert found.total == distance(a.split(), b.split())
    assert found.insertions - found.deletions == len(b.split()) - len(a.split())


@given(texts, texts)
def test_an_alignment_holds_both_texts_and_the_fewest_errors(a: str, b: str):
    pairs = align_words(a.split(), b.split())
    assert [x for x, _ in pairs if x is not None] == a.split()
    assert [y for _, y in pairs if y is not None] == b.split()
    assert Errors.of(pairs).total == distance(a.split(), b.split())
    assert Errors.of(pairs).length == len(a.split())


def test_confusions_are_counted_and_ordered():
    alignments = [align_words("a b c".split(), "a x c d".split()), align_words("b b".split(), "x b".split())]
    assert confusions(alignments) == (Confusion("b", "x", 2), Confusion(None, "d", 1))
    assert confusions(alignments, most=1) == (Confusion("b", "x", 2),)


def test_the_interval_holds_the_rate_and_shrinks_with_more_utterances():
    few = interval(["a b", "c d"] * 5, ["a b", "c x"] * 5)
    many = interval(["a b", "c d"] * 500, ["a b", "c x"] * 500)
    assert few[0] <= 0.25 <= few[1] and many[0] <= 0.25 <= many[1]
    assert many[1] - many[0] < few[1] - few[0]
    # Of n utterances with 0 or 1 errors in two words, the deviation of the rate is 0.25 / sqrt(n).
    assert many[1] - many[0] == pytest.approx(2 * 1.96 * 0.25 / 1000**0.5, rel=0.1)
    assert interval(["a"] * 9, ["a"] * 9) == (0.0, 0.0) == interval([""], ["x"])
