"""Batches of like lengths, full, in an order that depends on the seed and the epoch alone.

Lhotse's bucketing samplers leave each bucket's rest as a small batch at every epoch's end: on AN4 (2,277 s)
at 200 s a batch they make 18 to 29 batches, of which 6 to 23 are less than half full. They also know neither
how many batches come, nor how to resume without reading all that came before. A manifest's durations fit in
memory, so an epoch is planned as a whole here: sort by jittered duration, cut into batches, shuffle the
batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["BatchPlan", "Sampler"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class BatchPlan:
    """Indices into the manifest, and the speed of each."""

    indices: tuple[int, ...]
    speeds: tuple[float, ...]


class Sampler:
    """Plans epochs of batches whose padded duration is at most `max_duration` seconds.

    `durations` (N,) and `weights` (N,): how often each utterance comes per epoch, the fraction by chance.
    Every epoch has the same number of batches, `len(sampler)`, for each of `world_size` processes; they step
    through batches of neighbouring lengths together, so that none waits for another. A plan is a pure
    function of seed and epoch: the same for any number of workers, and to resume one skips to a batch.
    The first `plain_epochs` run at speed 1. Without `shuffle` each utterance comes once per epoch, at speed 1,
    from long to short (an evaluation's order; memory runs out at once or never).
    """

    def __init__(
        self,
        durations: Floats,
        *,
        max_duration: float,
        weights: Floats | None = None,
        speeds: Sequence[float] = (1.0,),
        plain_epochs: int = 0,
        jitter: float = 0.05,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.durations, self.max_duration, self.seed, self.shuffle = durations, max_duration, seed, shuffle
        self.weights = np.ones(len(durations)) if weights is None else weights
        self.speeds, self.jitter = np.array(speeds if shuffle else (1.0,), dtype=np.float64), jitter
        self.plain_epochs = plain_epochs
        self.rank, self.world_size = rank, world_size
        # Epochs differ by some batches, as jitter and speeds do; their number is fixed a little above what these need.
        tried = {0, 1, 2, plain_epochs} if shuffle else {0}
        needed = max(len(_cut(self._draw(epoch)[1], max_duration)) for epoch in tried)
        self._batches = -(-(needed + (needed > 20)) // world_size) * world_size if shuffle else needed

    def __len__(self) -> int:
        return -(-(self._batches - self.rank) // self.world_size) if self._batches > self.rank else 0

    def plan(self, epoch: int) -> list[BatchPlan]:
        """This process' batches of one epoch (from 0), in order."""
        indices, durations, speeds = self._draw(epoch)
        if self.shuffle:
            bounds = self._balanced(durations)
            steps = np.arange(len(bounds)).reshape(-1, self.world_size)
            order = np.random.default_rng((self.seed, epoch, 1)).permutation(steps)[:, self.rank]
        else:
            bounds = _cut(durations, self.max_duration)
            order = np.arange(self.rank, len(bounds), self.world_size)
        chosen = [bounds[int(i)] for i in order]
        return [BatchPlan(tuple(indices[a:b].tolist()), tuple(speeds[a:b].tolist())) for a, b in chosen]

    def _draw(self, epoch: int) -> tuple[Integers, Floats, Floats]:
        """Indices, durations as played, and speeds of an epoch's utterances, in the order to cut into
        batches."""
        if not self.shuffle:
            order = np.argsort(-self.durations, kind="stable")
            return order, self.durations[order], np.ones(len(order))
        random = np.random.default_rng((self.seed, epoch, 0))
        copies = np.floor(self.weights + random.random(len(self.weights))).astype(np.int64)
        if (
            not copies.any()
        ):  # small fractions of few utterances may come to nothing; an epoch has a batch at least
            copies[int(np.argmax(self.weights))] = 1
        indices = np.repeat(np.arange(len(self.durations)), copies)
        speeds = random.choice(self.speeds if epoch >= self.plain_epochs else np.ones(1), len(indices))
        durations = self.durations[indices] / speeds
        order = np.argsort(
            durations * (1 + random.uniform(-self.jitter, self.jitter, len(indices))), kind="stable"
        )
        return indices[order], durations[order], speeds[order]

    def _balanced(self, durations: Floats) -> list[tuple[int, int]]:
        """Exactly the fixed number of batches: by the smallest budget that needs no more, so that all are
        alike full."""
        for budget in np.linspace(0.8, 1.0, 11) * self.max_duration:
            bounds = _cut(durations, float(budget))
            if len(bounds) <= self._batches:
                break
        while (
            len(bounds) > self._batches
        ):  # a rare epoch that needs more: it does without some of its shortest utterances
            bounds.pop(0)
        while len(bounds) < self._batches:
            largest = max(range(len(bounds)), key=lambda i: bounds[i][1] - bounds[i][0])
            start, end = bounds[largest]
            if end - start < 2:  # fewer utterances than batches: some come twice
                bounds.append(bounds[largest])
            else:
                bounds[largest : largest + 1] = [(start, (start + end) // 2), ((start + end) // 2, end)]
        return bounds


def _cut(durations: Floats, budget: float) -> list[tuple[int, int]]:
    """Greedily cut a sequence of durations into stretches whose length times longest is at most `budget`."""
    bounds, start, longest = [], 0, 0.0
    for i, duration in enumerate(durations.tolist()):
        longest = max(longest, duration)
        if i > start and longest * (i + 1 - start) > budget:
            bounds.append((start, i))
            start, longest = i, duration
    return [*bounds, (start, len(durations))] if len(durations) else []
