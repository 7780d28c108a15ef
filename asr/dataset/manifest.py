"""The utterances of one or several corpora by number, each parsed when it is asked for.

A list of Lhotse's objects takes some kilobytes a cut, and every worker process copies it page by page as
reference counts change. Here an utterance costs some numbers in arrays, whatever the length of its line.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from lhotse.cut import Cut
from numpy.typing import NDArray

from asr.dataset.cuts import Samples
from asr.dataset.index import Index, ManifestFile
from asr.dataset.shards import Shards, is_shards

__all__ = ["Manifest", "open_index"]


def open_index(place: str | Path) -> Index:
    """The index of a manifest, or of shards. Raises DataError as `Index` does."""
    return Index(Shards(str(place)) if is_shards(str(place)) else ManifestFile(Path(place)))


class Manifest:
    """The cuts of one or several places, without those in `leave_out`: pairs of a file and a line number. `limit` takes
    so many of the rest, spread evenly.

    `durations` (N,) are in seconds, `owner` (N,) is the index of each cut's place, `shards` (N,) the number of its
    shard among those of all places, -1 where it lies in none.

    Raises:
        DataError: a place that is missing or damaged, a line that is not a cut.
    """

    def __init__(
        self,
        places: Sequence[str | Path],
        *,
        leave_out: Collection[tuple[str, int]] = (),
        limit: int | None = None,
    ) -> None:
        self.places = tuple(map(str, places))
        self.indexes = [open_index(place) for place in places]
        out: dict[str, list[int]] = defaultdict(list)
        for file, number in leave_out:
            out[file].append(number)
        kept = [_without(index, out) for index in self.indexes]
        lines = np.concatenate([np.zeros(0, dtype=np.int64), *kept])
        owner = np.repeat(np.arange(len(kept)), [len(one) for one in kept])
        durations = [np.zeros(0), *(i.durations[one] for i, one in zip(self.indexes, kept, strict=True))]
        count = len(lines) if limit is None else min(limit, len(lines))
        chosen = np.arange(count) * len(lines) // max(count, 1)
        self._lines, self.owner = lines[chosen], owner[chosen]
        self.durations = np.concatenate(durations)[chosen]
        self.shards = self._shards()
        if len(no_cuts := np.flatnonzero(np.isnan(self.durations))):
            self[int(no_cuts[0])]  # says what is wrong with it

    def _shards(self) -> NDArray[np.int64]:
        shards = np.full(len(self), -1)
        first = 0
        for number, index in enumerate(self.indexes):
            if index.source.sharded:
                own = self.owner == number
                shards[own] = first + index.files[self._lines[own]]
                first += len(index.names)
        return shards

    def __len__(self) -> int:
        return len(self.durations)

    def __getitem__(self, i: int) -> Cut:
        return self.indexes[self.owner[i]].cut(int(self._lines[i]))

    def load(self, i: int, *, speed: float = 1.0) -> tuple[Cut, Samples]:
        """A cut, and its samples (S,) at 16 kHz. Raises DataError as `load_audio` does."""
        index, line = self.indexes[self.owner[i]], int(self._lines[i])
        cut = index.cut(line)
        return cut, index.load(line, cut, speed=speed)

    def where(self, i: int) -> str:
        """The file and line of a cut, for messages."""
        return self.indexes[self.owner[i]].where(int(self._lines[i]))


def _without(index: Index, out: dict[str, list[int]]) -> NDArray[np.int64]:
    """Positions of the lines that stay."""
    stays = np.ones(len(index), dtype=bool)
    for number, name in enumerate(index.names):
        if name in out:
            stays &= ~((index.files == number) & np.isin(index.numbers, out[name]))
    return np.flatnonzero(stays)
