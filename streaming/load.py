"""How near the machine is to its limit, told before any stream feels it.

A step of a batch takes about `fixed + slope x` seconds, where x is the seconds of audio in it. Let n streams speak at
the pace of time, in kinds that cannot share a step. Steps follow one another, and in a cycle of T seconds n T seconds
of audio become ready, so T = sum(fixed) + slope n T:

    T = sum(fixed) / (1 - slope n)

T is how long a stream waits for its step, at most, and as long again takes the step. A step brings no more than
`seconds` of audio a stream, and has no more than `max_batch` streams; so streams fall behind for good where T is longer
than the `seconds` of a kind, or where more than all time would go into steps that bring so much:

    sum over kinds of fixed max(1, streams / max_batch) / seconds, + slope n

What one stream more would do is known from this, while a measured delay says so too late; that is watched, too, for
what the model does not see, such as other processes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Kind", "Load"]

_FORGET_SECONDS = 2.0
_NEW = 0.1
_FULL = 0.9  # of all time spent in steps: the rest is for what comes unevenly
_MOST = 10.0


@dataclass(frozen=True)
class Kind:
    """Streams of one model that can share steps: `key` tells them from the model's others. Each step brings
    `seconds` of audio.
    """

    model: str
    key: object
    seconds: float


class _Cost:
    """The line through the mean times of steps of one size, two, four, eight ... streams."""

    def __init__(self) -> None:
        self._means: dict[int, tuple[float, float]] = {}
        self.fixed = self.slope = 0.0

    def note(self, streams: int, audio: float, seconds: float) -> None:
        x, y = self._means.get(size := streams.bit_length(), (audio, seconds))
        # One slow step in a hundred is not what a step takes.
        seconds = min(seconds, 3 * y)
        self._means[size] = x + _NEW * (audio - x), y + _NEW * (seconds - y)
        points = list(self._means.values())
        x, y = (sum(column) / len(points) for column in zip(*points, strict=True))
        spread = sum((a - x) ** 2 for a, _ in points)
        slope = sum((a - x) * (b - y) for a, b in points) / spread if spread > 0 else y / x
        self.slope = min(max(slope, 0.0), y / x)
        self.fixed = y - self.slope * x


class Load:
    """`lag` is the delay in seconds that is too much; `None` is half a second. All but calling it is done by one
    thread.
    """

    def __init__(self, *, lag: float | None, max_batch: int) -> None:
        self._lag = 0.5 if lag is None else lag
        self._max_batch = max_batch
        self._costs: dict[str, _Cost] = {}
        self._waited = self._waited_at = 0.0
        self._fixed = self._slope = self._least = self._linear = 0.0
        self._shortest = math.inf
        self._known = 0

    def stepped(self, model: str, streams: int, audio: float, seconds: float) -> None:
        """A step of so many streams with so much audio in all took so long."""
        self._costs.setdefault(model, _Cost()).note(streams, audio, seconds)

    def waited(self, seconds: float, now: float) -> None:
        """So long a stream had been waiting for the step that now begins."""
        old = self._decayed(now)
        self._waited, self._waited_at = max(old, 0.7 * old + 0.3 * seconds), now

    def streams(self, kinds: Mapping[Kind, int]) -> None:
        """How many streams of each kind there are."""
        known = [(self._costs[kind.model], kind, n) for kind, n in kinds.items() if kind.model in self._costs]
        self._fixed = sum(cost.fixed for cost, _, _ in known)
        self._least = sum(
            cost.fixed * max(1.0, n / self._max_batch) / kind.seconds for cost, kind, n in known
        )
        self._shortest = min((kind.seconds for _, kind, _ in known), default=math.inf)
        self._linear = sum(cost.slope * n for cost, _, n in known)
        self._known = sum(kinds.values())
        self._slope = max((cost.slope for cost in self._costs.values()), default=0.0)
        if not known:  # the first stream's own
            self._fixed = max((cost.fixed for cost in self._costs.values()), default=0.0)

    def __call__(self, now: float, *, streams: int = 0) -> float:
        """The share of the allowed delay that is used, were there so many streams: above 1 is too much."""
        linear = self._linear + max(0, streams - self._known) * self._slope
        cycle = self._fixed / (1 - linear) if linear < 1 else math.inf
        share = max(self._least + linear, cycle / self._shortest) / _FULL
        return min(_MOST, max(2 * cycle / self._lag, share, self._decayed(now) / self._lag))

    def _decayed(self, now: float) -> float:
        return self._waited * math.exp(-max(0.0, now - self._waited_at) / _FORGET_SECONDS)
