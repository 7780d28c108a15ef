"""Utterances cut where it is quiet between two words, for training to join anew: `data.augment: concatenate`.

A small corpus is soon known by heart, whole utterances at a time; of its words, each heard beside ever other ones,
nothing but their sound can be learnt. After Aligned Data Augmentation (Lam et al. 2021, arXiv 2104.01393), which puts
words of a dictionary in the place of others.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from lhotse import SupervisionSegment
from lhotse.cut import Cut
from lhotse.utils import fastcopy

from asr.align import align_files
from asr.audio import HOP, SAMPLE_RATE
from asr.dataset.corpus import speaker_of, write_splits
from asr.dataset.cuts import Samples, text_of
from asr.dataset.manifest import Manifest
from asr.edges import loudness
from asr.errors import AudioError, ConfigError, DataError
from asr.transcript import Word

if TYPE_CHECKING:
    from asr.model import Model

__all__ = ["places", "write_pieces"]

ENDING = ".jsonl.gz"
GROUP = 64  # utterances in memory at once
REACH = 0.12  # seconds from where a word ends or begins in which its edge may be
LOUD = 90.0  # percentile of an utterance's loudness that stands for its speech

log = logging.getLogger(__name__)


def write_pieces(
    manifest: Path, model: Model, out: Path, *, quiet: float = 15.0, shortest: float = 0.3, least: int = 1
) -> str:
    """Cut the utterances of `manifest` and write the pieces as another one, `out`; audio stays where it is. Returns how
    many they are.

    quiet: decibels below an utterance's speech that a place between two words must have to be cut at. shortest: seconds
    that a piece lasts at least. least: pieces of a word that comes less often in `manifest` are written several times,
    for it to come about so often. What does not fit its text is left out, and told of.
    Raises DataError: a manifest that is damaged, or nothing of it can be aligned. ConfigError: the model has no CTC
    head, `out` is no .jsonl.gz, or the audio lies in shards.
    """
    if not out.name.endswith(ENDING):
        raise ConfigError(f"{out}: pieces are written as Lhotse cuts, give a name that ends in {ENDING}")
    cuts = Manifest([manifest])
    if (cuts.shards >= 0).any():
        raise ConfigError(f"{manifest}: cut the utterances before they are packed into shards")
    pieces = _pieces(cuts, model, quiet, shortest)
    if least > 1:
        pieces = _repeated(
            pieces, Counter(word for i in range(len(cuts)) for word in text_of(cuts[i]).split()), least
        )
    (facts,) = write_splits({out.name.removesuffix(ENDING): pieces}, out.parent).values()
    return facts


def _pieces(cuts: Manifest, model: Model, quiet: float, shortest: float) -> Iterator[Cut]:
    left_out = 0
    for first in range(0, len(cuts), GROUP):
        group = [_load(cuts, i) for i in range(first, min(first + GROUP, len(cuts)))]
        there = [(cut, samples) for cut, samples in group if samples is not None]
        left_out += len(group) - len(there)
        aligned = align_files(model, [(samples, text_of(cut)) for cut, samples in there])
        for (cut, samples), (_, found) in zip(there, aligned, strict=True):
            if isinstance(found, AudioError | DataError):
                log.warning("left out %s: %s", cut.id, found)
                left_out += 1
            else:
                yield from _cut(cut, found.words, places(samples, found.words, quiet, shortest))
    if left_out == len(cuts):
        raise DataError(
            f"{', '.join(cuts.places)}: no utterance fits its text; is the model of this language?"
        )


def _repeated(pieces: Iterable[Cut], counts: Mapping[str, int], least: int) -> Iterator[Cut]:
    """After repeat factor sampling (Gupta et al. 2019), without its square root: rare words are few, and short."""
    for piece in pieces:
        rarest = min(counts[word] for word in text_of(piece).split())
        yield piece
        for copy in range(2, round(least / rarest) + 1):
            yield piece.with_id(f"{piece.id}-{copy}")


def _load(cuts: Manifest, i: int) -> tuple[Cut, Samples | None]:
    try:
        return cuts.load(i)
    except DataError as error:
        log.warning("left out: %s", error)
        return cuts[i], None


def places(samples: Samples, words: Sequence[Word], quiet: float, shortest: float) -> list[tuple[int, float]]:
    """Where to cut samples (S,) at 16 kHz: how many words come before each place, and its time in seconds."""
    decibels, hop = loudness(samples), HOP / SAMPLE_RATE
    duration, before, found = len(samples) / SAMPLE_RATE, 0.0, []
    limit = float(np.percentile(decibels, LOUD)) - quiet if len(decibels) else 0.0
    for number, (word, following) in enumerate(pairwise(words), start=1):
        start = round(max((word.start + word.end) / 2, word.end - REACH) / hop)
        end = round(min((following.start + following.end) / 2, following.start + REACH) / hop)
        between = decibels[start : end + 1]
        if not len(between) or between.min() > limit:
            continue
        place = (start + int(between.argmin()) + 0.5) * hop
        if min(place - before, duration - place) >= shortest:
            found.append((number, place))
            before = place
    return found


def _cut(cut: Cut, words: Sequence[Word], where: Sequence[tuple[int, float]]) -> Iterator[Cut]:
    said = cut.supervisions[0]
    bounds = [(0, 0.0), *where, (len(words), cut.duration)]
    for (first, start), (last, end) in pairwise(bounds):
        name = f"{cut.id}-{first + 1}"
        piece = cut.truncate(offset=start, duration=end - start)
        text = " ".join(word.text for word in words[first:last])
        supervision = SupervisionSegment(
            id=name, recording_id=said.recording_id, start=0.0, duration=piece.duration,
            channel=said.channel, text=text, language=said.language, speaker=speaker_of(cut),
        )  # fmt: skip
        yield fastcopy(piece, id=name, supervisions=[supervision])
