"""What is in a corpus, and what is wrong with it: read before training, not found out in the tenth hour."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import chain, islice, pairwise
from pathlib import Path

import numpy as np
import soundfile
from lhotse.audio import Recording
from lhotse.cut import Cut, MixedCut
from numpy.typing import NDArray

from asr.dataset.cuts import load_audio, text_of
from asr.dataset.manifest import parse, raw_lines
from asr.errors import DataError

__all__ = ["Problem", "Report", "check", "validate"]

TOLERANCE = 0.025
"""Seconds by which times may disagree: less than an output frame of any model, more than rounding in
manifests."""
CHARACTERS_PER_SECOND = 35
"""More than anyone speaks: such a text belongs to other audio, or its times are wrong."""
WINDOW = 1024
"""Lines read at a time: what bounds the memory."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with one line of a manifest."""

    path: Path
    line: int
    id: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path}, line {self.line}, {self.id}: {self.what}; {self.remedy}"


@dataclass(frozen=True, kw_only=True)
class Report:
    """Of the good lines: durations in seconds, speakers, characters of the texts; and the problems of the
    others."""

    paths: tuple[Path, ...]
    lines: int
    durations: NDArray[np.float64] = field(repr=False)
    speakers: int
    words: int
    characters: dict[str, int]
    problems: tuple[Problem, ...]

    @property
    def hours(self) -> float:
        return float(self.durations.sum()) / 3600

    @property
    def utterances(self) -> int:
        return len(self.durations)

    @property
    def bad(self) -> frozenset[tuple[Path, int]]:
        """Path and line number of each bad item: what a `Loader` is told to leave out."""
        return frozenset((problem.path, problem.line) for problem in self.problems)

    def to_text(self, *, most: int | None = None) -> str:
        """The report for a terminal, with at most `most` of the problems spelled out (None: all)."""
        counts = f"{self.utterances} utterances, {self.speakers} speakers, {self.words} words"
        lines = [", ".join(map(str, self.paths)), f"{self.hours:.2f} h, {counts}"]
        if self.utterances:
            marks = np.quantile(self.durations, [0, 0.05, 0.5, 0.95, 1])
            lines.append("seconds: " + ", ".join(f"{n} {v:.2f}" for n, v in zip(_MARKS, marks, strict=True)))
            lines += _histogram(self.durations)
            characters = "".join(sorted(self.characters))
            lines.append(f"{len(self.characters)} characters: {characters!r}")
        lines.append(f"{len(self.problems)} problems in {len(self.bad)} of {self.lines} lines")
        lines += [f"  {problem}" for problem in self.problems[:most]]
        if most is not None and len(self.problems) > most:
            lines.append(f"  and {len(self.problems) - most} more")
        return "\n".join(lines)

    __str__ = to_text


_MARKS = ("shortest", "5 %", "median", "95 %", "longest")


def _histogram(durations: NDArray[np.float64], *, bars: int = 10, width: int = 40) -> list[str]:
    counts, edges = np.histogram(durations, bins=bars, range=(0, float(durations.max())))
    return [
        f"  {low:6.2f} to {high:6.2f} s {count:8d} {'#' * round(width * count / counts.max())}".rstrip()
        for low, high, count in zip(edges[:-1], edges[1:], counts.tolist(), strict=True)
    ]


def validate(
    paths: Sequence[Path],
    *,
    decode: bool = False,
    progress: Progress | None = None,
    threads: int | None = None,
) -> Report:
    """Read manifests, and the headers and last samples of their audio files; all of the audio where `decode`.

    `progress(done, total)` is called now and then with numbers of lines.

    Raises:
        DataError: a manifest that is missing or damaged as a file. What is wrong inside is in the report.
    """
    total = sum(1 for path in paths for _ in raw_lines(path))
    lines = ((path, number, line) for path in paths for number, line in raw_lines(path))
    seen: dict[str, str] = {}
    durations: list[float] = []
    speakers: set[str] = set()
    characters: Counter[str] = Counter()
    words, done = 0, 0
    problems: list[Problem] = []
    with ThreadPoolExecutor(threads) as pool:
        while window := list(islice(lines, WINDOW)):
            for (path, number, _), (cut, found) in zip(
                window, pool.map(partial(_check, decode=decode), window), strict=True
            ):
                if cut is not None:
                    where = f"{path}, line {number}"
                    if (first := seen.setdefault(cut.id, where)) != where:
                        found = [*found, ("its id stands already in " + first, "give each cut its own")]
                problems += [
                    Problem(path, number, cut.id if cut else "no cut", what, remedy) for what, remedy in found
                ]
                if cut is not None and not found:
                    text = text_of(cut)
                    durations.append(cut.duration)
                    speakers.update(segment.speaker for segment in cut.supervisions if segment.speaker)
                    characters.update(text)
                    words += len(text.split())
            done += len(window)
            if progress is not None:
                progress(done, total)
    return Report(
        paths=tuple(paths),
        lines=total,
        durations=np.array(durations, dtype=np.float64),
        speakers=len(speakers),
        words=words,
        characters=dict(characters),
        problems=tuple(problems),
    )


def check(
    paths: Sequence[Path], *, skip_bad: bool = False, decode: bool = False, progress: Progress | None = None
) -> Report:
    """Validate, and stop at problems unless told to go on without them.

    Raises:
        DataError: the first problems by name, and how to go on; or nothing good is left.
    """
    report = validate(paths, decode=decode, progress=progress)
    if report.problems and not skip_bad:
        first = "; ".join(map(str, report.problems[:3]))
        raise DataError(
            f"{len(report.bad)} of {report.lines} lines are bad: {first}"
            f"{'; and more' if len(report.problems) > 3 else ''}. "
            "Mend them, or go on without them with data.skip_bad=true"
        )
    if not report.utterances:
        raise DataError(f"no good utterance in {', '.join(map(str, paths))}")
    return report


Found = Iterator[tuple[str, str]]


def _check(item: tuple[Path, int, bytes], *, decode: bool) -> tuple[Cut | None, list[tuple[str, str]]]:
    path, number, line = item
    try:
        cut = parse(line, path=path, number=number)
    except DataError as error:
        return None, [(str(error).removeprefix(f"{path}, line {number} "), "write the manifest again")]
    found = list(chain(_check_times(cut), _check_text(cut), _check_recordings(cut)))
    if decode and not found:
        try:
            load_audio(cut)
        except DataError as error:
            found.append((str(error).split(";")[0].removeprefix(f"cut {cut.id}: "), "replace the file"))
    return cut, found


def _check_times(cut: Cut) -> Found:
    if cut.duration <= 0 or getattr(cut, "start", 0) < 0:
        yield (
            f"the cut starts at {getattr(cut, 'start', 0):g} s and lasts {cut.duration:g} s",
            "mend its times",
        )
    segments = sorted(cut.supervisions, key=lambda segment: segment.start)
    for segment in segments:
        if segment.duration <= 0:
            yield f"supervision {segment.id} lasts {segment.duration:g} s", "mend or remove it"
        elif segment.end > cut.duration + TOLERANCE:
            by = segment.end - cut.duration
            yield f"supervision {segment.id} ends {by:.2f} s past the audio's end", "mend its times"
        if segment.start < -TOLERANCE:
            yield f"supervision {segment.id} starts {-segment.start:.2f} s before the cut", "mend its times"
    for before, after in pairwise(segments):
        if before.end > after.start + TOLERANCE:
            yield (
                f"supervisions {before.id} and {after.id} overlap",
                "cut them apart (cut.trim_to_supervisions)",
            )


def _check_text(cut: Cut) -> Found:
    if not cut.supervisions:
        yield "it has no supervision", "add its text, or remove it"
    for segment in cut.supervisions:
        text = segment.text or ""
        odd = {
            f"U+{ord(c):04X}"
            for c in text
            if c == "\N{REPLACEMENT CHARACTER}" or unicodedata.category(c) in ("Cc", "Co", "Cn")
        }
        if not text.strip():
            yield f"supervision {segment.id} is empty", "add its text, or remove it"
        elif odd:
            yield (
                f"text of {segment.id} has characters that no text has: {', '.join(sorted(odd))}",
                "mend its encoding",
            )
        elif not any(c.isalnum() for c in text):
            yield f"text of {segment.id} has no letter: {text!r}", "write what is said, or remove it"
        elif segment.duration > 0 and len(text) > max(10, CHARACTERS_PER_SECOND * segment.duration):
            yield (
                f"text of {segment.id} has {len(text)} characters in {segment.duration:.2f} s",
                "check that it is its text",
            )


def _check_recordings(cut: Cut) -> Found:
    for track in [track.cut for track in cut.tracks] if isinstance(cut, MixedCut) else [cut]:
        if not track.has_recording:
            if not isinstance(cut, MixedCut):  # a track of a mix may be padding
                yield "it has no recording", "make cuts from recordings: features are computed on the fly"
            continue
        recording = track.recording
        if track.end > recording.duration + TOLERANCE:
            yield (
                f"the cut ends {track.end - recording.duration:.2f} s past its recording's end",
                "mend its times",
            )
        if recording.transforms:  # the file's own length is before them; decoding tells
            continue
        for source in recording.sources:
            if source.type == "file":
                yield from _check_file(recording, str(source.source))


def _check_file(recording: Recording, path: str) -> Found:
    try:
        stat = Path(path).stat()
    except OSError:
        yield f"{path} is missing", "restore the file, or remove the line"
        return
    rate, samples, trouble = _header(path, stat.st_size, stat.st_mtime_ns)
    if trouble:
        yield f"{path} {trouble}", "replace the file, or remove the line"
    elif rate != recording.sampling_rate:
        yield (
            f"{path} has {rate} Hz, but the manifest says {recording.sampling_rate}",
            "prepare the corpus again",
        )
    elif abs(samples - recording.num_samples) > TOLERANCE * rate:
        found, said = samples / rate, recording.num_samples / recording.sampling_rate
        yield f"{path} lasts {found:.2f} s, but the manifest says {said:.2f} s", "prepare the corpus again"


@lru_cache(maxsize=4096)  # many cuts may come from one long recording
def _header(path: str, size: int, _changed: int) -> tuple[int, int, str]:
    """Sampling rate, samples, and what is wrong with a file ("" if nothing).

    Only FLAC promises an end in its header that a truncated file cannot reach; other formats' lengths are
    found by libsndfile from what is there (and a seek in Opus takes 5 ms).
    """
    if not size:
        return 0, 0, "is empty"
    try:
        file = soundfile.SoundFile(path)
    except (soundfile.LibsndfileError, OSError) as error:
        return 0, 0, f"is not audio ({str(error).split(': ')[-1].rstrip('.')})"
    with file:
        if not file.frames:
            return file.samplerate, 0, "holds no samples"
        try:
            whole = file.format != "FLAC" or (file.seek(file.frames - 1) >= 0 and len(file.read(1)) == 1)
        except soundfile.LibsndfileError:
            whole = False
        return file.samplerate, file.frames, "" if whole else "is truncated: its last samples are missing"
