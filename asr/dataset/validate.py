"""What is in a corpus, and what is wrong with it: read before training, not found out in the tenth hour."""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise, starmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from asr.dataset.checks import faults
from asr.dataset.cuts import text_of
from asr.dataset.index import Index
from asr.dataset.manifest import open_index
from asr.dataset.report import Problem, Report
from asr.errors import DataError
from asr.paths import cache_folder

__all__ = ["Problem", "Report", "check", "validate"]

log = logging.getLogger(__name__)

WINDOW = 1024
"""Lines checked at a time."""
MOST_FILES = 100_000
"""Lines whose audio files are looked at before training; of longer manifests a sample, spread evenly."""
KEPT_FROM = 20_000
"""Lines from which on a report is kept until a manifest changes: looking again would hold up each start."""
THREADS = 8
"""That look at files in each process: they wait for the disk."""
RULES = "1"
"""Of the checks: a report by other rules is not used."""

Progress = Callable[[int, int], None]


def validate(
    places: Sequence[str | Path],
    *,
    decode: bool = False,
    progress: Progress | None = None,
    processes: int | None = None,
    most_files: int = MOST_FILES,
) -> Report:
    """Read manifests, and the headers and last samples of their audio files; all of the audio where `decode`.

    Of manifests with more than `most_files` lines together, the audio of a sample is looked at, and the report says
    so. Long ones are read by several processes (None: as many as there are cores), and their report is kept.
    `progress(done, total)` is called now and then with numbers of lines.

    Raises:
        DataError: a manifest that is missing or damaged as a file. What is wrong inside is in the report.
    """
    indexes = [open_index(place) for place in places]
    total = sum(map(len, indexes))
    key = " ".join(
        [RULES, str(decode), str(most_files), *(f"{i.source.place} {i.path.name}" for i in indexes)]
    )
    kept = cache_folder() / "manifests" / f"report-{hashlib.sha256(key.encode()).hexdigest()[:32]}"
    if kept.is_dir():
        log.info("validated before, and the manifests are the same; to look again, remove %s", kept)
        return Report.load(kept)
    look = _Look(indexes, decode=decode, every=max(1, -(-total // most_files)))
    windows = [
        (number, start, min(start + WINDOW, len(index)))
        for number, index in enumerate(indexes)
        for start in range(0, len(index), WINDOW)
    ]
    processes = min(processes or len(os.sched_getaffinity(0)), len(windows))
    several = processes > 1 and total >= KEPT_FROM
    parts: list[_Part] = []
    # Forked processes find the indexes where they are; what they give back are numbers.
    fork = multiprocessing.get_context("fork")
    with fork.Pool(processes, _keep, (look,)) if several else nullcontext() as pool:
        found = pool.imap(_look, windows) if pool is not None else starmap(look, windows)
        for part in found:
            parts.append(part)
            if progress is not None:
                progress(sum(len(one.ids) for one in parts), total)
    report = _sum_up(look, tuple(map(str, places)), parts)
    if total >= KEPT_FROM:
        report.save(kept)
    return report


def check(
    places: Sequence[str | Path],
    *,
    bad_share: float = 0.0,
    decode: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Validate, and stop where more than `bad_share` of the lines are bad.

    Raises:
        DataError: the first problems by name, and how to go on; or nothing good is left.
    """
    report = validate(places, decode=decode, progress=progress)
    if len(report.bad) > bad_share * report.lines:
        first = "; ".join(map(str, report.problems[:3]))
        raise DataError(
            f"{len(report.bad)} of {report.lines} lines are bad: {first}"
            f"{'; and more' if len(report.problems) > 3 else ''}. "
            f"Mend them, or go on without them with data.bad_share={_share(len(report.bad) / report.lines)}"
        )
    if not report.utterances:
        raise DataError(f"no good utterance in {', '.join(map(str, places))}")
    return report


def _share(share: float) -> str:
    """Rounded up to two digits."""
    return f"{min(1.0, np.ceil(100 * share) / 100):g}"


@dataclass
class _Part:
    """What was found in a window. Of each line: 64 bits of a hash of its id, seconds (NaN: bad) and words."""

    window: tuple[int, int, int]
    ids: NDArray[np.int64]
    durations: NDArray[np.float64]
    words: NDArray[np.int64]
    speakers: NDArray[np.int64]
    looked_at: int = 0
    characters: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)


@dataclass
class _Look:
    """Checks windows of lines."""

    indexes: list[Index]
    decode: bool
    every: int

    def __call__(self, number: int, start: int, end: int) -> _Part:
        index = self.indexes[number]
        count = end - start
        part = _Part(
            (number, start, end),
            np.zeros(count, np.int64), np.full(count, np.nan), np.zeros(count, np.int64), np.zeros(0, np.int64),
        )  # fmt: skip
        speakers: set[int] = set()
        with ThreadPoolExecutor(THREADS) as pool:
            each = pool.map if self.every == 1 else map  # threads help to wait for files alone
            for i, (id, problems, text, duration, names) in enumerate(
                each(partial(self.line, index), range(start, end))
            ):
                part.looked_at += (start + i) % self.every == 0
                part.ids[i] = _hash(id) if id else -1
                part.problems += problems
                if not problems:
                    part.durations[i], part.words[i] = duration, len(text.split())
                    part.characters.update(text)
                    speakers.update(map(_hash, names))
        part.speakers = np.array(sorted(speakers), dtype=np.int64)
        return part

    def line(self, index: Index, i: int) -> tuple[str, list[Problem], str, float, list[str]]:
        """Id, problems, text, seconds and speakers of a line."""
        file, number = index.file(i), int(index.numbers[i])
        try:
            cut = index.cut(i)
        except DataError as error:
            what = str(error).removeprefix(f"{index.where(i)} ")
            return "", [Problem(file, number, "no cut", what, "write the manifest again")], "", 0.0, []
        found = list(faults(cut, audio=i % self.every == 0))
        if self.decode and not found:
            try:
                index.load(i, cut)
            except DataError as error:
                found.append((str(error).split(";")[0].removeprefix(f"cut {cut.id}: "), "replace the file"))
        problems = [Problem(file, number, cut.id, what, remedy) for what, remedy in found]
        names = [segment.speaker for segment in cut.supervisions if segment.speaker]
        return cut.id, problems, text_of(cut), cut.duration, names


_kept: _Look | None = None


def _keep(look: _Look) -> None:
    global _kept  # what a process of the pool works with
    _kept = look


def _look(window: tuple[int, int, int]) -> _Part:
    assert _kept is not None
    return _kept(*window)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), signed=True)


def _sum_up(look: _Look, places: tuple[str, ...], parts: list[_Part]) -> Report:
    none = np.zeros(0, np.int64)
    ids = np.concatenate([none, *(part.ids for part in parts)])
    durations = np.concatenate([np.zeros(0), *(part.durations for part in parts)])
    words = np.concatenate([none, *(part.words for part in parts)])
    characters: Counter[str] = Counter()
    for part in parts:
        characters.update(part.characters)
    problems = [problem for part in parts for problem in part.problems]
    for first, again in _twice(ids):
        (index, i), (other, j) = (_line(look, parts, place) for place in (again, first))
        id, _, text, _, _ = look.line(index, i)
        remedy = "give each cut its own"
        problems.append(
            Problem(
                index.file(i), int(index.numbers[i]), id, f"its id stands already in {other.where(j)}", remedy
            )
        )
        if not np.isnan(durations[again]):
            characters.subtract(text)
        durations[again], words[again] = np.nan, 0
    return Report(
        places=places,
        lines=len(ids),
        looked_at=sum(part.looked_at for part in parts),
        durations=durations[~np.isnan(durations)],
        speakers=len(np.unique(np.concatenate([none, *(part.speakers for part in parts)]))),
        words=int(words.sum()),
        characters={character: count for character, count in characters.items() if count},
        problems=tuple(problems),
    )


def _twice(ids: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """(first, again) of each id that comes again; -1 stands for none."""
    order = np.argsort(ids, kind="stable")
    same = (np.diff(ids[order]) == 0) & (ids[order][1:] != -1)
    firsts: dict[int, int] = {}
    for before, after in pairwise(order[np.flatnonzero(np.r_[same, False] | np.r_[False, same])].tolist()):
        if ids[before] == ids[after]:
            firsts[after] = firsts.get(before, before)
    return iter(sorted((first, again) for again, first in firsts.items()))


def _line(look: _Look, parts: list[_Part], place: int) -> tuple[Index, int]:
    """Where a place among all lines is."""
    ends = np.cumsum([len(part.ids) for part in parts])
    part = parts[k := int(np.searchsorted(ends, place, side="right"))]
    return look.indexes[part.window[0]], part.window[1] + place - int(ends[k]) + len(part.ids)
