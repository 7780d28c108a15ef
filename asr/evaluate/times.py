"""When words and tokens were said, by forced alignment; how much later they are shown, how far off their times are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from asr.align import Spelling, align_batch, spell
from asr.errors import DataError
from asr.evaluate.decode import cleared
from asr.evaluate.errors import align_words
from asr.tokenizer import WordBuilder
from asr.transcript import Word

if TYPE_CHECKING:
    from asr.evaluate.decode import Step
    from asr.heads.base import Emission
    from asr.model import Model
    from asr.tokenizer import Tokenizer

__all__ = ["Delays", "Said", "Shown", "Spread", "WordTimes", "matches", "said"]

Normalize = Callable[[str], str]


class Said(NamedTuple):
    """A reference in time: words as written, and the tokens with when each ends, in seconds."""

    words: tuple[Word, ...]
    tokens: tuple[int, ...]
    ends: tuple[float, ...]


def said(model: Model, samples: Tensor, lens: Tensor, texts: Sequence[str]) -> list[Said | None]:
    """(B, S), (B,) and their texts; None for those that cannot be aligned, all of them without a CTC head."""
    if "ctc" not in model.heads:
        return [None] * len(texts)
    found: list[Said | None] = [None] * len(texts)
    spelt: dict[int, Spelling] = {}
    for b, text in enumerate(texts):
        with suppress(DataError):
            spelt[b] = spell(text, model.tokenizer)
    if not spelt:
        return found
    rows = list(spelt)
    aligned = align_batch(model, cleared(samples, lens)[rows], lens[rows], list(spelt.values()))
    for b, alignment in zip(rows, aligned, strict=True):
        if alignment is not None:
            ends = tuple(span.end * model.frame_seconds for span in alignment.spans)
            found[b] = Said(alignment.words, spelt[b].tokens, ends)
    return found


def matches(
    reference: Sequence[str], hypothesis: Sequence[str], normalize: Normalize
) -> tuple[list[tuple[int, int]], list[bool]]:
    """Places of the same word in both, and of each word of the hypothesis whether it is right.

    Words are normalized one by one: one may become several, all of which must be right, or none at all, which is wrong
    nowhere.
    """
    spoken = [(part, i) for i, word in enumerate(reference) for part in normalize(word).split()]
    heard = [(part, j) for j, word in enumerate(hypothesis) for part in normalize(word).split()]
    right = [True] * len(hypothesis)
    pairs: dict[int, int] = {}
    i = j = 0
    for a, b in align_words([part for part, _ in spoken], [part for part, _ in heard]):
        if b is not None:
            if a == b:
                pairs.setdefault(heard[j][1], spoken[i][1])
            else:
                right[heard[j][1]] = False
            j += 1
        i += a is not None
    return [(i, j) for j, i in pairs.items() if right[j]], right


@dataclass(frozen=True)
class Spread:
    """Of `count` values in seconds: their mean, median and 95th percentile."""

    mean: float
    median: float
    p95: float
    count: int

    @staticmethod
    def of(values: Sequence[float]) -> Spread | None:
        if not values:
            return None
        return Spread(
            float(np.mean(values)), float(np.median(values)), float(np.percentile(values, 95)), len(values)
        )


@dataclass
class Shown:
    """The tokens that a stream shows, each with the seconds of audio after which it stood there for good."""

    emissions: list[Emission] = field(default_factory=list)
    heard: list[float] = field(default_factory=list)
    settled: int = 0

    def see(self, step: Step, stream: int) -> None:
        """Take over what a step shows of the stream of that number."""
        now = [*self.emissions[: self.settled], *step.final[stream], *step.open[stream]]
        same = 0
        while (
            same < min(len(now), len(self.emissions))
            and now[same].token == self.emissions[same].token
            and now[same].frame <= self.emissions[same].frame
        ):
            same += 1
        same = max(same, self.settled)
        self.heard[same:] = [step.heard[stream]] * (len(now) - same)
        self.emissions = now
        self.settled += len(step.final[stream])


@dataclass
class Delays:
    """Seconds of a live session's audio from when something was said until it was shown for good.

    first: the first token after the first word's beginning. token, word: each right one after its end. final: the last
    token after the last word's end. Computing comes on top.
    """

    first: list[float] = field(default_factory=list)
    token: list[float] = field(default_factory=list)
    word: list[float] = field(default_factory=list)
    final: list[float] = field(default_factory=list)

    def add(
        self, truth: Said, shown: Shown, words: Sequence[Word], tokenizer: Tokenizer, normalize: Normalize
    ) -> None:
        """One utterance."""
        if not shown.emissions or not truth.words:
            return
        self.first.append(shown.heard[0] - truth.words[0].start)
        self.final.append(shown.heard[-1] - truth.words[-1].end)
        i = j = 0
        for a, b in align_words([str(t) for t in truth.tokens], [str(e.token) for e in shown.emissions]):
            if a == b:
                self.token.append(shown.heard[j] - truth.ends[i])
            i, j = i + (a is not None), j + (b is not None)
        complete = _complete(shown, tokenizer)
        for i, j in _same(truth.words, words, normalize):
            if j in complete:
                self.word.append(complete[j] - truth.words[i].end)

    def spreads(self) -> dict[str, Spread]:
        named = {name: Spread.of(getattr(self, name)) for name in ("first", "token", "word", "final")}
        return {name: spread for name, spread in named.items() if spread is not None}


def _same(
    reference: Sequence[Word], hypothesis: Sequence[Word], normalize: Normalize
) -> list[tuple[int, int]]:
    return matches([word.text for word in reference], [word.text for word in hypothesis], normalize)[0]


def _complete(shown: Shown, tokenizer: Tokenizer) -> dict[int, float]:
    """When each word's last token was there."""
    builder, found, before = WordBuilder(tokenizer, frame_seconds=0.0), dict[int, float](), tuple[Word, ...]()
    for emission, heard in zip(shown.emissions, shown.heard, strict=True):
        builder.push([emission])
        if builder.words != before:  # a bare space changes none
            before = builder.words
            found[len(before) - 1] = heard
    return found


@dataclass
class WordTimes:
    """How far the times of right words are from forced alignment: seconds, later times above 0."""

    start: list[float] = field(default_factory=list)
    end: list[float] = field(default_factory=list)

    def add(self, truth: Said, words: Sequence[Word], normalize: Normalize) -> None:
        """One utterance."""
        for i, j in _same(truth.words, words, normalize):
            self.start.append(words[j].start - truth.words[i].start)
            self.end.append(words[j].end - truth.words[i].end)

    def spreads(self) -> dict[str, Spread]:
        named = {name: Spread.of([abs(x) for x in getattr(self, name)]) for name in ("start", "end")}
        return {name: spread for name, spread in named.items() if spread is not None}
