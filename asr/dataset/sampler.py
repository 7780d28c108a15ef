"""Batches of like lengths, full, in an order that depends on the seed and the epoch alone.

Lhotse's bucketing samplers leave each bucket's rest as a small batch at every epoch's end: on AN4 (2,277 s)
at 200 s a batch they make 18 to 29 batches, of which 6 to 23 are less than half full. They also know neither
how many batches come, nor how to resume without reading all that came before. The durations of millions of
utterances fit in memory, so an epoch is planned as a whole here: sort by jittered duration, cut into batches,
shuffle the batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from asr.errors import DataError

__all__ = ["BatchPlan", "Joining", "Plan", "Sampler", "resumed"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Bounds = list[tuple[int, int]]

LARGE = 50_000
"""Utterances from which on the number of batches varies so little that two epochs tell it."""


@dataclass(frozen=True)
class BatchPlan:
    """Indices into the manifest and the speed of each; `sizes` says how many of them make each utterance of the
    batch, one after another."""

    indices: tuple[int, ...]
    speeds: tuple[float, ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Plan(Sequence[BatchPlan]):
    """The batches of an epoch, as arrays: `indices` and `speeds` (M,) of all parts in order; utterance n is made of
    the parts from `starts[n]` on; batch b of the utterances `bounds[b]`."""

    indices: Integers
    speeds: Floats
    starts: Integers
    bounds: Bounds

    def __len__(self) -> int:
        return len(self.bounds)

    def __getitem__(self, number: int) -> BatchPlan:  # type: ignore[override]
        first, end = self.bounds[number]
        parts = slice(int(self.starts[first]), int(self.starts[end]))
        sizes = np.diff(self.starts[first : end + 1])
        return BatchPlan(
            tuple(self.indices[parts].tolist()), tuple(self.speeds[parts].tolist()), tuple(sizes.tolist())
        )

    def __iter__(self) -> Iterator[BatchPlan]:
        return (self[number] for number in range(len(self)))

    def after(self, batches: int) -> Plan:
        """Without the first so many batches."""
        return Plan(self.indices, self.speeds, self.starts, self.bounds[batches:])


@dataclass(frozen=True)
class Joining:
    """Utterances that become one: each is continued by another with `probability`, up to `max_seconds`, with
    `pause` seconds between."""

    probability: float
    max_seconds: float
    pause: float


@dataclass(frozen=True)
class _Drawn:
    """An epoch's utterances in the order to cut into batches; `pool` numbers never fall."""

    indices: Integers
    speeds: Floats
    starts: Integers
    durations: Floats
    pool: Integers


class Sampler:
    """Plans epochs of batches whose padded duration is at most `max_duration` seconds.

    `durations` (N,) and `weights` (N,): how often each utterance comes per epoch. Fractions take turns: of weight
    0.3, each epoch sees 30 % of the utterances of an `owner` (N,), and ten epochs see each three times.
    Every epoch has the same number of batches, `len(sampler)`, for each of `world_size` processes; they step
    through batches of neighbouring lengths together, so that none waits for another. A plan is a pure
    function of seed and epoch: the same for any number of workers, and to resume one skips to a batch.
    The first `plain_epochs` run at speed 1 with nothing joined. `shards` (N,) numbers the shard that each utterance
    lies in (-1: none): an epoch then goes through pools of `shards_at_once`, in random order, and a batch takes its
    utterances from one pool, so that few shards need to be at hand. Without `shuffle` each utterance comes once per
    epoch, at speed 1, from long to short (an evaluation's order; memory runs out at once or never).
    """

    def __init__(
        self,
        durations: Floats,
        *,
        max_duration: float,
        weights: Floats | None = None,
        owner: Integers | None = None,
        speeds: Sequence[float] = (1.0,),
        joining: Joining | None = None,
        plain_epochs: int = 0,
        jitter: float = 0.05,
        shards: Integers | None = None,
        shards_at_once: int = 1,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.durations, self.max_duration, self.seed, self.shuffle = durations, max_duration, seed, shuffle
        self.weights = np.ones(len(durations)) if weights is None else weights
        self.owner = np.zeros(len(durations), dtype=np.int64) if owner is None else owner
        self.speeds, self.jitter = np.array(speeds if shuffle else (1.0,), dtype=np.float64), jitter
        self.joining, self.plain_epochs = joining, plain_epochs
        self.shards = shards if shards is not None and (shards >= 0).any() and shuffle else None
        self.shards_at_once = shards_at_once
        self.rank, self.world_size = rank, world_size
        self._turns = _turns(self.weights, self.owner, seed) if shuffle else np.zeros(len(durations))
        # Epochs differ by some batches, as jitter and speeds do; their number is fixed a little above what these need.
        tried = {0, plain_epochs} if len(durations) > LARGE else {0, 1, 2, plain_epochs}
        needed = max(len(_cut(self._draw(epoch), max_duration)) for epoch in (tried if shuffle else {0}))
        spare = (needed > 20) + needed // 1000
        self._batches = -(-(needed + spare) // world_size) * world_size if shuffle else needed

    def __len__(self) -> int:
        return -(-(self._batches - self.rank) // self.world_size) if self._batches > self.rank else 0

    def plan(self, epoch: int) -> Plan:
        """This process' batches of one epoch (from 0), in order."""
        drawn = self._draw(epoch)
        if self.shuffle:
            bounds = self._balanced(drawn)
            firsts = np.array([first for first, _ in bounds[:: self.world_size]])
            random = np.random.default_rng((self.seed, epoch, 1))
            steps = np.lexsort((random.random(len(firsts)), drawn.pool[firsts]))
            order = steps * self.world_size + self.rank
        else:
            bounds = _cut(drawn, self.max_duration)
            order = np.arange(self.rank, len(bounds), self.world_size)
        return Plan(drawn.indices, drawn.speeds, drawn.starts, [bounds[i] for i in order.tolist()])

    def _draw(self, epoch: int) -> _Drawn:
        if not self.shuffle:
            order = np.argsort(-self.durations, kind="stable")
            count = len(order)
            return _Drawn(
                order, np.ones(count), np.arange(count + 1), self.durations[order], np.zeros(count, np.int64)
            )
        random = np.random.default_rng((self.seed, epoch, 0))
        indices = np.repeat(np.arange(len(self.durations)), self._copies(epoch))
        plain = epoch < self.plain_epochs
        speeds = random.choice(np.ones(1) if plain else self.speeds, len(indices))
        played = self.durations[indices] / speeds
        pool = self._pools(indices, epoch)
        if self.joining is None or plain:
            starts = np.arange(len(indices) + 1)
        else:
            order = np.lexsort((random.random(len(indices)), pool))
            indices, speeds, played, pool = indices[order], speeds[order], played[order], pool[order]
            starts, played = _joined(played, pool, self.joining, random)
            pool = pool[starts[:-1]]
        jittered = played * (1 + random.uniform(-self.jitter, self.jitter, len(played)))
        order = np.lexsort((jittered, pool)) if pool.any() else np.argsort(jittered, kind="stable")
        sizes = np.diff(starts)[order]
        ends = np.cumsum(sizes)
        parts = np.arange(len(indices)) + np.repeat(starts[order] - (ends - sizes), sizes)
        return _Drawn(indices[parts], speeds[parts], np.concatenate([[0], ends]), played[order], pool[order])

    def _copies(self, epoch: int) -> Integers:
        """How often each utterance comes in an epoch."""
        before, after = (np.floor(number * self.weights + self._turns) for number in (epoch, epoch + 1))
        copies = (after - before).astype(np.int64)
        if (
            not copies.any()
        ):  # small fractions of few utterances may come to nothing; an epoch has a batch at least
            copies[int(np.argmax(self.weights))] = 1
        return copies

    def _pools(self, indices: Integers, epoch: int) -> Integers:
        """The pool of each utterance: by its shard's place in the epoch's order of shards, by chance without one."""
        if self.shards is None:
            return np.zeros(len(indices), dtype=np.int64)
        random = np.random.default_rng((self.seed, epoch, 2))
        place = random.random(int(self.shards.max()) + 1)
        shards = self.shards[indices]
        used = np.unique(shards[shards >= 0])
        rank = np.empty(len(place))
        rank[used[np.argsort(place[used])]] = np.arange(len(used)) / max(1, len(used))
        at = np.where(shards >= 0, rank[shards], random.random(len(indices)))
        return np.floor(at * max(1, -(-len(used) // self.shards_at_once))).astype(np.int64)

    def _balanced(self, drawn: _Drawn) -> Bounds:
        """Exactly the fixed number of batches: by the smallest budget that needs no more, so that all are
        alike full."""
        bounds: Bounds = []
        low, high = 80, 100  # per cent
        while low <= high:
            middle = (low + high) // 2
            found = _cut(drawn, middle / 100 * self.max_duration)
            if len(found) <= self._batches:
                bounds, high = found, middle - 1
            else:
                low = middle + 1
        if not bounds:  # a rare epoch that needs more: it does without some of its shortest utterances
            found = _cut(drawn, self.max_duration)
            fewest = sorted(range(len(found)), key=lambda i: drawn.durations[found[i][1] - 1])
            dropped = set(fewest[: len(found) - self._batches])
            bounds = [bound for i, bound in enumerate(found) if i not in dropped]
        while (missing := self._batches - len(bounds)) > 0:
            largest = set(sorted(range(len(bounds)), key=lambda i: bounds[i][0] - bounds[i][1])[:missing])
            halves = [_halves(*bound) if i in largest else [bound] for i, bound in enumerate(bounds)]
            bounds = [bound for pair in halves for bound in pair]
        return bounds


def resumed(state: Mapping[str, int], now: Mapping[str, int], what: str) -> tuple[int, int]:
    """Epoch and batch at which a loader that now stands as `now` says goes on from a state of before.

    With another number of processes, whose batches are others, it is as far in the epoch.

    Raises:
        DataError: `what` is another now (texts, batch size, seed), so that no place in it is the same.
    """
    others = state.get("processes", now["processes"]) != now["processes"]
    for key in ("seed", "utterances") if others else ("seed", "utterances", "batches"):
        if state[key] != now[key]:
            raise DataError(
                f"{what} changed since the checkpoint ({key}: {state[key]} then, {now[key]} now), so the place in the "
                "epoch is lost; restore the settings, or start anew from its weights"
            )
    return state["epoch"], state["batch"] * now["batches"] // state["batches"]


def _halves(start: int, end: int) -> Bounds:
    """Two batches of one; of fewer utterances than batches, some come twice."""
    middle = (start + end) // 2
    return [(start, middle), (middle, end)] if end - start > 1 else [(start, end)] * 2


def _turns(weights: Floats, owner: Integers, seed: int) -> Floats:
    """A fraction for each utterance, evenly spread over those of its owner that have a weight: which of them are the
    first in turn."""
    seen = np.where(weights > 0, owner, -1)
    order = np.lexsort((np.random.default_rng((seed, 3)).random(len(weights)), seen))
    _, first, counts = np.unique(seen[order], return_index=True, return_counts=True)
    turns = np.empty(len(weights))
    turns[order] = (np.arange(len(weights)) - np.repeat(first, counts) + 0.5) / np.repeat(counts, counts)
    return turns


def _joined(
    durations: Floats, pool: Integers, joining: Joining, random: np.random.Generator
) -> tuple[Integers, Floats]:
    """Starts (N + 1,) and durations (N,) of the utterances that neighbours are joined to."""
    starts, sums = [0], durations[:1].tolist()
    wanted = (random.random(len(durations)) < joining.probability) & (pool == np.roll(pool, 1))
    for i, (duration, join) in enumerate(zip(durations.tolist(), wanted.tolist(), strict=True)):
        if i == 0:
            continue
        total = sums[-1] + joining.pause + duration
        if join and total <= joining.max_seconds:
            sums[-1] = total
        else:
            starts.append(i)
            sums.append(duration)
    return np.array([*starts, len(durations)]), np.array(sums)


def _cut(drawn: _Drawn, budget: float) -> Bounds:
    """Greedily cut utterances into stretches of one pool whose number times longest is at most `budget`."""
    bounds, start, longest, current = [], 0, 0.0, 0
    for i, (duration, pool) in enumerate(zip(drawn.durations.tolist(), drawn.pool.tolist(), strict=True)):
        longest = max(longest, duration)
        if i > start and (longest * (i + 1 - start) > budget or pool != current):
            bounds.append((start, i))
            start, longest = i, duration
        current = pool
    return [*bounds, (start, len(drawn.durations))] if len(drawn.durations) else []
