"""Errors between texts: counts, alignments, what is confused with what, and how sure a rate is."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import kaldialign

from asr.text import join_words, split_words

__all__ = ["Confusion", "Errors", "Pair", "align_words", "confusions", "count_errors", "interval"]

Pair = tuple[str | None, str | None]
"""A reference word and what was heard in its place; None where nothing stands against the other."""

_GAP = "\0"  # stands in no text


@dataclass(frozen=True)
class Errors:
    """What turns references into hypotheses: counts over words or characters."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    length: int = 0  # words or characters of the references

    @property
    def total(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors per reference word: 0.05 is 5 %. Of no words at all, the number of insertions."""
        return self.total / max(self.length, 1)

    def __add__(self, other: Errors) -> Errors:
        return Errors(
            *(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True))
        )

    @staticmethod
    def of(pairs: Iterable[Pair]) -> Errors:
        """Those of an alignment."""
        pairs = list(pairs)
        return Errors(
            substitutions=sum(a is not None and b is not None and a != b for a, b in pairs),
            deletions=sum(b is None for _, b in pairs),
            insertions=sum(a is None for a, _ in pairs),
            length=sum(a is not None for a, _ in pairs),
        )


@dataclass(frozen=True)
class Confusion:
    """A word that was heard as another `count` times; None: left out, or heard where nothing was said."""

    said: str | None
    heard: str | None
    count: int


def align_words(reference: Sequence[str], hypothesis: Sequence[str]) -> list[Pair]:
    """An alignment of the fewest errors, words in order."""
    pairs = kaldialign.align(reference, hypothesis, _GAP)
    return [(None if a == _GAP else a, None if b == _GAP else b) for a, b in pairs]


def count_errors(references: Iterable[str], hypotheses: Iterable[str], *, characters: bool = False) -> Errors:
    """Errors of the best alignment of each pair of texts, summed; of characters, with spaces counted as one each."""
    total = Errors()
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        ref, hyp = split_words(reference), split_words(hypothesis)
        if characters:
            ref, hyp = list(join_words(ref)), list(join_words(hyp))
        found = kaldialign.edit_distance(ref, hyp)
        total += Errors(found["sub"], found["del"], found["ins"], len(ref))
    return total


def confusions(alignments: Iterable[Sequence[Pair]], *, most: int = 20) -> tuple[Confusion, ...]:
    """The most frequent errors, equally frequent ones in order of the alphabet."""
    counts = Counter((a, b) for pairs in alignments for a, b in pairs if a != b)
    order = sorted(counts.items(), key=lambda item: (-item[1], item[0][0] or "", item[0][1] or ""))
    return tuple(Confusion(said, heard, count) for (said, heard), count in order[:most])


def interval(references: Sequence[str], hypotheses: Sequence[str]) -> tuple[float, float]:
    """The bounds that the word error rate of such utterances lies in with a probability of 95 %.

    Utterances are drawn anew, with replacement, 1,000 times (Bisani and Ney 2004, in kaldialign).
    """
    if not any(split_words(text) for text in references):
        return 0.0, 0.0
    found = kaldialign.bootstrap_wer_ci(
        [split_words(text) for text in references],
        [split_words(text) for text in hypotheses],
        replications=1000,
    )
    return max(0.0, found["ci95min"]), found["ci95max"]
