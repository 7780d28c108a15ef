"""A ring of samples between the packets of a client and the steps of a model."""

from __future__ import annotations

import numpy as np

from asr.audio import SAMPLE_RATE
from asr.errors import ProtocolError

__all__ = ["Fifo"]


class Fifo:
    """First in, first out, in memory that is taken once and never grows."""

    def __init__(self, capacity: int) -> None:
        self._ring = np.zeros(capacity, np.float32)
        self._start = 0
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def capacity(self) -> int:
        return len(self._ring)

    def write(self, samples: np.ndarray) -> None:
        """Append (n,) samples. Raises ProtocolError where they do not fit; then nothing has been written."""
        if self._size + len(samples) > self.capacity:
            raise ProtocolError(
                f"more audio than the {self.capacity / SAMPLE_RATE:.1f} s that are buffered: send it slower"
            )
        stop = (self._start + self._size) % self.capacity
        head = min(len(samples), self.capacity - stop)
        self._ring[stop : stop + head] = samples[:head]
        self._ring[: len(samples) - head] = samples[head:]
        self._size += len(samples)

    def read(self, count: int) -> np.ndarray:
        """Take the oldest `count` samples, or all where there are fewer, as a copy."""
        count = min(count, self._size)
        head = min(count, self.capacity - self._start)
        samples = np.concatenate([self._ring[self._start : self._start + head], self._ring[: count - head]])
        self._start = (self._start + count) % self.capacity
        self._size -= count
        return samples
