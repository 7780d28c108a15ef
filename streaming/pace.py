"""How fast a connection is read: a bucket of messages that fills with time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Pace"]

_BURST_SECONDS = 10.0


class Pace:
    """At most `rate` messages a second in the long run, and ten seconds' worth at once."""

    def __init__(self, rate: float, *, clock: Callable[[], float] | None = None) -> None:
        self._rate = rate
        self._clock = clock or asyncio.get_running_loop().time
        self._left = rate * _BURST_SECONDS
        self._at = self._clock()

    def take(self) -> float:
        """Take a message. Seconds until it may be handled."""
        now = self._clock()
        self._left = min(self._rate * _BURST_SECONDS, self._left + self._rate * (now - self._at)) - 1
        self._at = now
        return max(0.0, -self._left / self._rate)

    async def next(self) -> None:
        """Take a message, when there is one to be had."""
        if (seconds := self.take()) > 0:
            await asyncio.sleep(seconds)
