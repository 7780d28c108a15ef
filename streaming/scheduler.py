"""All ready sessions of a kind in one batched step: a pure core, which is told the time and never asks for
it.

Sessions of one `Group` (chunk, head, kind of search, first, later or last step) may share a step. Each `tick` takes
the session that has been ready longest and fills its batch with the others of its group, longest ready first. A session
that has been stepped queues up again behind those that are waiting, so a client that sends a file as fast as
it can gets the steps that live ones leave over, and none starves. At its last step, whose text is waited for, a session
goes before those that have been ready little longer.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from asr.audio import SAMPLE_RATE
from asr.errors import RillError
from streaming.engine import Batch, Engine, named
from streaming.events import Ended, Event, Failed, Options
from streaming.load import Kind
from streaming.session import Session

if TYPE_CHECKING:
    from asr.heads import Emission

__all__ = ["Result", "Scheduler", "Tick"]

_log = logging.getLogger(__name__)

_MARK_SECONDS = 0.01
_LAST_SECONDS = 0.2
"""A session at its last step counts as ready for so much longer."""

Key = Hashable


@dataclass(frozen=True)
class Result:
    """What a tick did for one session: `events`, how far it has come, how late it is. Both in seconds.

    After `Ended` or `Failed` the scheduler has forgotten the session.
    """

    key: Key
    events: tuple[Event, ...]
    position: float
    lag: float


@dataclass(frozen=True)
class Tick:
    """`streams` is the size of the stepped batch, 0 where there was none; `waited` its longest wait; `audio` the
    seconds in it.
    """

    results: list[Result]
    streams: int = 0
    waited: float = 0.0
    audio: float = 0.0
    model: str = ""

    def later(self, seconds: float) -> Tick:
        """The same, told `seconds` after the time that the tick was given: lags are so much longer."""
        return replace(self, results=[replace(result, lag=result.lag + seconds) for result in self.results])


@dataclass
class _Slot:
    session: Session
    marks: deque[tuple[int, float]] = field(default_factory=deque)
    ready_since: float | None = None

    def mark(self, now: float) -> None:
        """Remember when audio came, at most every 10 ms, so that its delay can be told when it has been
        stepped.
        """
        if not self.marks or now - self.marks[-1][1] >= _MARK_SECONDS:
            self.marks.append((self.session.received, now))
        else:
            self.marks[-1] = (self.session.received, self.marks[-1][1])
        self.queue(now)

    def queue(self, now: float) -> None:
        if not self.session.ready:
            self.ready_since = None
        elif self.ready_since is None:
            self.ready_since = now

    @property
    def rank(self) -> float:
        """Of those that are ready, the least goes first."""
        assert self.ready_since is not None
        return self.ready_since - (_LAST_SECONDS if self.session.at_last_step else 0.0)

    def arrival(self, position: int, now: float) -> float:
        """When the sample before `position` came."""
        while len(self.marks) > 1 and self.marks[0][0] < position:
            self.marks.popleft()
        return self.marks[0][1] if self.marks else now


class Scheduler:
    """Not thread-safe: one thread owns it, its engines and its sessions. `engines`: one, or several by their names,
    of which a session chooses one; the first where it does not.
    """

    def __init__(
        self, engines: Engine | Mapping[str, Engine], *, max_batch: int = 64, backlog: float = 8.0
    ) -> None:
        self.engines = named(engines)
        self._default = next(iter(self.engines))
        self.max_batch = max_batch
        self._backlog = backlog
        self._slots: dict[Key, _Slot] = {}
        self._results: list[Result] = []

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def ready(self) -> bool:
        """`tick` has something to do."""
        return bool(self._results) or any(slot.ready_since is not None for slot in self._slots.values())

    def kinds(self) -> Counter[Kind]:
        """How many streams there are that can share steps, of each kind."""
        return Counter(slot.session.kind for slot in self._slots.values())

    # ---- what clients do. Their faults come out of the next tick as `Failed`, like all events.

    def open(self, key: Key, options: Options) -> None:
        try:
            name = self._default if options.model is None else options.model
            session = Session(self.engines[name], options, backlog=self._backlog, model=name)
            self._slots[key] = _Slot(session)
            if session.notices:
                self._deliver(key, session.notices, 0.0)
        except Exception as error:
            self._results.append(Result(key, (_failure(error, key),), 0.0, 0.0))

    def push(self, key: Key, data: bytes, now: float) -> None:
        """Audio of whole samples. For a session that has failed or ended meanwhile it is dropped."""
        if (slot := self._slots.get(key)) is not None:
            try:
                slot.session.push(data)
            except Exception as error:
                self._fail(key, error)
            else:
                slot.mark(now)

    def end(self, key: Key, now: float) -> None:
        if (slot := self._slots.get(key)) is not None:
            try:
                events = slot.session.end()
            except Exception as error:
                self._fail(key, error)
                return
            slot.mark(now)
            if events:
                self._deliver(key, events, 0.0)

    def update(self, key: Key, options: Options) -> None:
        """See `Session.update`."""
        if (slot := self._slots.get(key)) is not None:
            slot.session.update(options)

    def drop(self, key: Key) -> None:
        """The client is gone: forget the session, without events."""
        self._slots.pop(key, None)

    # ---- steps

    def tick(self, now: float) -> Tick:
        """One batched step at most, and every event since the last tick."""
        waiting = [(slot.rank, key) for key, slot in self._slots.items() if slot.ready_since is not None]
        if not waiting:
            return Tick(self._take_results())
        waiting.sort(key=lambda x: x[0])
        group = self._slots[waiting[0][1]].session.group
        keys = [key for _, key in waiting if self._slots[key].session.group == group][: self.max_batch]
        waited = now - min(self._slots[key].ready_since or now for key in keys)
        audio = len(keys) * group.samples / SAMPLE_RATE
        steps = [self._slots[key].session.take() for key in keys]
        for key, outcome in zip(keys, self._step(keys, steps), strict=True):
            slot = self._slots[key]
            if isinstance(outcome, Exception):
                self._fail(key, outcome)
                continue
            lag = max(0.0, now - slot.arrival(slot.session.taken, now))
            try:
                events = slot.session.accept(*outcome)
            except Exception as error:
                self._fail(key, error)
                continue
            slot.ready_since = None
            slot.queue(now)
            self._deliver(key, events, lag)
        return Tick(self._take_results(), len(keys), waited, audio, group.kind.model)

    def abandon(self, failed: Failed) -> Tick:
        """Give every session up with one last event."""
        results = [
            Result(key, (failed,), slot.session.taken / SAMPLE_RATE, 0.0) for key, slot in self._slots.items()
        ]
        self._slots.clear()
        return Tick(self._take_results() + results)

    def _step(
        self, keys: Sequence[Key], steps: Sequence[tuple[np.ndarray, int]]
    ) -> list[tuple[list[Emission], Any] | Exception]:
        """Step together; if that fails, each alone, so that a fault stays with the sessions that have it."""
        sessions = [self._slots[key].session for key in keys]
        batch = Batch(
            chunk=sessions[0].chunk,
            head=sessions[0].options.head,
            samples=np.stack([samples for samples, _ in steps]),
            lens=np.array([length for _, length in steps], np.int64),
            states=[session.state for session in sessions],
            searches=[session.search for session in sessions],
        )
        try:
            emissions, states = self.engines[sessions[0].kind.model].step(batch)
        except Exception as error:
            if len(keys) == 1:
                return [error]
            _log.warning(
                "a step of %d streams failed (%s); stepping them one by one", len(keys), type(error).__name__
            )
            return [self._step([key], [step])[0] for key, step in zip(keys, steps, strict=True)]
        return list(zip(emissions, states, strict=True))

    def _fail(self, key: Key, error: Exception) -> None:
        self._deliver(key, [_failure(error, key)], 0.0)

    def _deliver(self, key: Key, events: Sequence[Event], lag: float) -> None:
        slot = self._slots[key]
        self._results.append(Result(key, tuple(events), slot.session.taken / SAMPLE_RATE, lag))
        if events and isinstance(events[-1], Ended | Failed):
            del self._slots[key]

    def _take_results(self) -> list[Result]:
        results, self._results = self._results, []
        return results


def _failure(error: Exception, key: Key) -> Failed:
    if isinstance(error, RillError):
        return Failed("bad_audio", str(error))
    _log.error("session %s failed", key, exc_info=error)
    return Failed(
        "engine", "the recogniser failed on this stream; its other streams go on. Please open a new session"
    )
