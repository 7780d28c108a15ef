"""Where each line of a corpus stands: arrays on disk, memory-mapped, so that a million lines cost some bytes each.

The first look at a corpus reads it once and leaves its index in the cache folder, with the text where that is
compressed; both are made anew when the corpus changes. After that, opening takes no time, a line is one read at a
known place, and processes share what they read through the system's page cache.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import shutil
import tempfile
import weakref
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from lhotse.cut import Cut
from lhotse.serialization import deserialize_item
from numpy.typing import NDArray

from asr.dataset.cuts import Samples, load_audio
from asr.errors import DataError
from asr.paths import cache_folder

__all__ = ["Index", "Line", "ManifestFile", "Source", "parse", "stamp_of"]

LAYOUT = "1"
"""Of an index on disk; one of another layout is not found, and made anew."""
ARRAYS = {"starts": "q", "sizes": "q", "numbers": "q", "files": "i", "durations": "d"}
TEXT = "lines.jsonl"


class Line(NamedTuple):
    """A line that is not blank: the number of its file among the source's, its number from 1, its bytes and where
    they begin in the file."""

    file: int
    number: int
    start: int
    text: bytes


class Source(Protocol):
    """A corpus that is read line by line, each the JSON of a Lhotse cut."""

    place: str
    """As the user names it."""
    text: Path | None
    """The one file that `Line.start` counts in, where lines can be read from it again."""
    folder: Path | None
    """What audio paths may be relative to."""
    sharded: bool
    """Whether the audio of a file of lines lies together, and is read best with its neighbours."""

    def stamp(self) -> str:
        """Other text when the corpus has changed."""
        ...

    def files(self) -> list[str]:
        """Names of the files that lines come from, for messages."""
        ...

    def lines(self) -> Iterator[Line]: ...

    def with_audio(self, cut: Cut, file: int) -> Cut:
        """A cut, of the file of that number, with audio that can be loaded."""
        ...


def stamp_of(path: Path) -> str:
    """What tells one state of a file from another. Raises DataError for a file that is missing."""
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(f"{path} is missing: `asr prepare RECIPE CORPUS OUT` writes manifests") from error
    return f"{stat.st_dev} {stat.st_ino} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"


class ManifestFile:
    """Lhotse cuts in JSON lines, gzipped or not."""

    sharded = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.place = str(path)
        self.folder: Path | None = path.parent
        self.text: Path | None = None if path.suffix == ".gz" else path

    def stamp(self) -> str:
        return stamp_of(self.path)

    def files(self) -> list[str]:
        return [self.place]

    def lines(self) -> Iterator[Line]:
        """Raises DataError: the file is missing, or its gzip stream is damaged."""
        start = 0
        try:
            with gzip.open(self.path) if self.text is None else self.path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield Line(0, number, start, line)
                    start += len(line)
        except (OSError, EOFError) as error:
            raise DataError(
                f"{self.path} cannot be read: {error}; write it again with `asr prepare`"
            ) from error

    def with_audio(self, cut: Cut, file: int) -> Cut:
        return cut


class Index:
    """The lines of one source. (N,) arrays: `durations` in seconds (NaN where a line is no cut), `files` and `numbers`
    say where each line comes from.

    Raises:
        DataError: the source is missing or damaged, or its index cannot be written.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.names = source.files()
        key = hashlib.sha256(os.path.abspath(source.place).encode()).hexdigest()[:16]
        stamp = hashlib.sha256(f"{LAYOUT} {source.stamp()}".encode()).hexdigest()[:16]
        self.path = cache_folder() / "manifests" / f"{key}-{stamp}"
        if not self.path.is_dir():
            _build(source, self.path)
        self.starts, self.sizes, self.numbers, self.files, self.durations = (self._array(n) for n in ARRAYS)
        self._text: int | None = None

    def _array(self, name: str) -> NDArray[Any]:
        try:
            return np.load(self.path / f"{name}.npy", mmap_mode="r")
        except (OSError, ValueError) as error:
            raise DataError(f"the index {self.path} is damaged ({error}); remove that folder") from error

    def __len__(self) -> int:
        return len(self.starts)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_text": None}

    def line(self, i: int) -> bytes:
        """The bytes of line i."""
        if self._text is None:
            self._text = os.open(self.source.text or self.path / TEXT, os.O_RDONLY)
            weakref.finalize(self, os.close, self._text)
        return os.pread(self._text, int(self.sizes[i]), int(self.starts[i]))

    def file(self, i: int) -> str:
        """The file that line i stands in."""
        return self.names[self.files[i]]

    def where(self, i: int) -> str:
        """File and line, for messages."""
        return f"{self.file(i)}, line {self.numbers[i]}"

    def cut(self, i: int) -> Cut:
        """Line i as a cut. Raises DataError as `parse` does."""
        return parse(self.line(i), where=self.where(i), folder=self.source.folder)

    def load(self, i: int, cut: Cut, *, speed: float = 1.0) -> Samples:
        """The samples of line i, whose cut this is, (S,) at 16 kHz. Raises DataError as `load_audio` does."""
        return load_audio(self.source.with_audio(cut, int(self.files[i])), speed=speed)


def _build(source: Source, path: Path) -> None:
    """Read the whole source once; the folder appears under its name when it is whole."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix="partial-", dir=path.parent))
    except OSError as error:
        raise _cannot_write(source, path, error) from error
    try:
        arrays: dict[str, array[Any]] = {name: array(code) for name, code in ARRAYS.items()}
        starts, sizes, numbers, files, durations = arrays.values()
        written = 0
        with (partial / TEXT).open("wb") if source.text is None else contextlib.nullcontext() as text:
            for line in source.lines():
                starts.append(line.start if text is None else written)
                sizes.append(len(line.text))
                numbers.append(line.number)
                files.append(line.file)
                durations.append(_duration(line.text))
                if text is not None:
                    written += text.write(line.text)
        for name, values in arrays.items():
            np.save(partial / f"{name}.npy", np.array(values))
        with contextlib.suppress(FileExistsError, OSError):
            partial.rename(path)  # another process may have been first
        if not path.is_dir():
            raise OSError(f"{partial} cannot be renamed")
    except OSError as error:
        raise _cannot_write(source, path, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for old in path.parent.glob(f"{path.name.partition('-')[0]}-*"):
        if old != path:
            shutil.rmtree(old, ignore_errors=True)


def _cannot_write(source: Source, path: Path, error: OSError) -> DataError:
    return DataError(
        f"the index of {source.place} cannot be written to {path.parent} ({error}); make room there, or name another "
        "folder in the environment variable RILL_CACHE"
    )


def _duration(line: bytes) -> float:
    try:
        item = json.loads(line)
        duration = item.get("duration")
        if not isinstance(duration, int | float):  # mixed cuts have none of their own in JSON
            duration = parse(line, where="", folder=None).duration
    except (ValueError, AttributeError, DataError):
        return float("nan")
    return float(duration)


def parse(line: bytes, *, where: str, folder: Path | None) -> Cut:
    """A line as a cut; `where` names it in errors. Audio paths may be relative to `folder`.

    Raises:
        DataError: the line is not the JSON of a Lhotse cut.
    """
    try:
        item = json.loads(line)
        if isinstance(item, dict) and "type" not in item and "recording" in item:
            item["type"] = "MonoCut"
        if folder is not None:
            _resolve(item, folder)
        cut = deserialize_item(item)
    # Lhotse's constructors fail in ways of their own: each means the same to the user.
    except Exception as error:
        raise DataError(
            f"{where} is not a Lhotse cut ({type(error).__name__}: {error}); mend or remove the line"
        ) from error
    if not isinstance(cut, Cut):
        raise DataError(
            f"{where} is a {type(cut).__name__}, not a Lhotse cut; make cuts with CutSet.from_manifests"
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
