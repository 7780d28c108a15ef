"""What a validation found, for a terminal and to be kept."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["Problem", "Report"]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with one line of a manifest."""

    file: str
    line: int
    id: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}, {self.id}: {self.what}; {self.remedy}"


@dataclass(frozen=True, kw_only=True)
class Report:
    """Of the good lines: durations in seconds, speakers, characters of the texts; and the problems of the
    others."""

    places: tuple[str, ...]
    lines: int
    looked_at: int
    """Lines whose audio files were looked at."""
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
    def bad(self) -> frozenset[tuple[str, int]]:
        """File and line number of each bad item: what a `Loader` is told to leave out."""
        return frozenset((problem.file, problem.line) for problem in self.problems)

    def to_text(self, *, most: int | None = None) -> str:
        """The report for a terminal, with at most `most` of the problems spelled out (None: all)."""
        counts = f"{self.utterances} utterances, {self.speakers} speakers, {self.words} words"
        lines = [", ".join(self.places), f"{self.hours:.2f} h, {counts}"]
        if self.utterances:
            marks = np.quantile(self.durations, [0, 0.05, 0.5, 0.95, 1])
            lines.append("seconds: " + ", ".join(f"{n} {v:.2f}" for n, v in zip(_MARKS, marks, strict=True)))
            lines += _histogram(self.durations)
            characters = "".join(sorted(self.characters))
            lines.append(f"{len(self.characters)} characters: {characters!r}")
        lines.append(f"{len(self.problems)} problems in {len(self.bad)} of {self.lines} lines")
        if self.looked_at < self.lines:
            lines[-1] += (
                f"; of {self.looked_at} lines, spread evenly, the audio was looked at, the rest as it is read"
            )
        lines += [f"  {problem}" for problem in self.problems[:most]]
        if most is not None and len(self.problems) > most:
            lines.append(f"  and {len(self.problems) - most} more")
        return "\n".join(lines)

    __str__ = to_text

    def save(self, folder: Path) -> None:
        """Keep it in a folder, which appears when it is whole."""
        partial = Path(tempfile.mkdtemp(prefix="partial-", dir=folder.parent))
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        np.save(partial / "durations.npy", plain.pop("durations"))
        plain["problems"] = [vars(problem) for problem in self.problems]
        (partial / "report.json").write_text(json.dumps(plain), encoding="utf-8")
        with contextlib.suppress(OSError):  # another process may have been first
            partial.rename(folder)
        shutil.rmtree(partial, ignore_errors=True)

    @staticmethod
    def load(folder: Path) -> Report:
        """What `save` kept."""
        plain = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        plain["problems"] = tuple(Problem(**problem) for problem in plain["problems"])
        plain["places"] = tuple(plain["places"])
        return Report(durations=np.load(folder / "durations.npy"), **plain)


_MARKS = ("shortest", "5 %", "median", "95 %", "longest")


def _histogram(durations: NDArray[np.float64], *, bars: int = 10, width: int = 40) -> list[str]:
    counts, edges = np.histogram(durations, bins=bars, range=(0, float(durations.max())))
    return [
        f"  {low:6.2f} to {high:6.2f} s {count:8d} {'#' * round(width * count / counts.max())}".rstrip()
        for low, high, count in zip(edges[:-1], edges[1:], counts.tolist(), strict=True)
    ]
