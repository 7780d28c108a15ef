"""Lhotse cuts in JSON lines, held as the bytes of the file and parsed one at a time.

A list of Lhotse's objects takes some kilobytes a cut, and every worker process copies it page by page as
reference counts change. One block of bytes with an index takes what the file takes, and is shared by all
workers.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
from lhotse.cut import Cut
from lhotse.serialization import deserialize_item

from asr.errors import DataError

__all__ = ["Manifest", "parse", "raw_lines"]


def raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Number (from 1) and bytes of each line that is not blank.

    Raises:
        DataError: the file is missing, or its gzip stream is damaged.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: `asr prepare RECIPE CORPUS OUT` writes manifests") from error
    except (OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {error}; write it again with `asr prepare`") from error


def parse(line: bytes, *, path: Path, number: int) -> Cut:
    """Line `number` of the manifest `path` as a cut. Audio paths may be relative to the manifest's folder.

    Raises:
        DataError: the line is not the JSON of a Lhotse cut.
    """
    try:
        item = json.loads(line)
        if isinstance(item, dict) and "type" not in item and "recording" in item:
            item["type"] = "MonoCut"
        _resolve(item, path.parent)
        cut = deserialize_item(item)
    # Lhotse's constructors fail in ways of their own: each means the same to the user.
    except Exception as error:
        raise DataError(
            f"{path}, line {number} is not a Lhotse cut ({type(error).__name__}: {error}); mend or remove the line"
        ) from error
    if not isinstance(cut, Cut):
        raise DataError(
            f"{path}, line {number} is a {type(cut).__name__}, not a Lhotse cut; make cuts with CutSet.from_manifests"
        )
    return cut


def _resolve(item: object, folder: Path) -> None:
    """Make the audio files that lie beside the manifest absolute; a path that is not found there is kept."""
    if isinstance(item, list):
        for part in item:
            _resolve(part, folder)
    elif isinstance(item, dict):
        if item.get("type") == "file" and isinstance(source := item.get("source"), str):
            beside = folder / source
            if not Path(source).is_absolute() and beside.is_file():
                item["source"] = str(beside.absolute())
        for part in item.values():
            _resolve(part, folder)


class Manifest:
    """The cuts of one or several files, without those in `leave_out`: pairs of a path and a line number.

    `durations` (N,) are in seconds, `owner` (N,) is the index of each cut's path.

    Raises:
        DataError: a file that is missing or damaged, a line that is not a cut.
    """

    def __init__(self, paths: Sequence[Path], *, leave_out: Collection[tuple[Path, int]] = ()) -> None:
        self.paths = tuple(paths)
        out = frozenset(leave_out)
        block = bytearray()
        ends, durations, owner, numbers = [0], [], [], []
        for index, path in enumerate(self.paths):
            for number, line in raw_lines(path):
                if (path, number) in out:
                    continue
                block += line
                ends.append(len(block))
                durations.append(_duration(line, path, number))
                owner.append(index)
                numbers.append(number)
        self._block = bytes(block)
        self._ends = np.array(ends, dtype=np.int64)
        self._numbers = np.array(numbers, dtype=np.int64)
        self.durations = np.array(durations, dtype=np.float64)
        self.owner = np.array(owner, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.durations)

    def __getitem__(self, index: int) -> Cut:
        line = self._block[self._ends[index] : self._ends[index + 1]]
        return parse(line, path=self.paths[self.owner[index]], number=int(self._numbers[index]))

    def where(self, index: int) -> str:
        """The file and line of a cut, for messages."""
        return f"{self.paths[self.owner[index]]}, line {self._numbers[index]}"


def _duration(line: bytes, path: Path, number: int) -> float:
    try:
        duration = json.loads(line).get("duration")
    except (ValueError, AttributeError):
        duration = None
    # Mixed cuts have no duration of their own in JSON; and what is no JSON gets its message from `parse`.
    if not isinstance(duration, int | float):
        duration = parse(line, path=path, number=number).duration
    return float(duration)
