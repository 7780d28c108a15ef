"""The thread that owns the engine: it takes what clients did from a mailbox, ticks the scheduler, delivers
results.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Protocol

from streaming.engine import warm_up
from streaming.events import Failed, Options
from streaming.load import Load
from streaming.scheduler import Result, Scheduler, Tick

__all__ = ["Observer", "Runner"]

_log = logging.getLogger(__name__)

Key = Hashable


class Observer(Protocol):
    """Is told of every step; see `streaming.metrics`."""

    def stepped(self, tick: Tick, seconds: float) -> None: ...


@dataclass
class _Mail:
    """What one client did since the last tick, in this order. Packets are joined: one decoding for many of
    them.
    """

    options: Options | None = None
    audio: bytearray = field(default_factory=bytearray)
    since: float = 0.0
    changed: Options | None = None
    ended: bool = False
    dropped: bool = False


class Runner:
    """`open`, `push`, `end` and `drop` may be called from any thread and return at once.

    `deliver` is called in the engine's thread and must hand the results over without waiting.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        deliver: Callable[[list[Result]], None],
        observer: Observer | None = None,
        lag: float | None = 0.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scheduler = scheduler
        self._deliver = deliver
        self._observer = observer
        self._clock = clock
        self._load = Load(lag=lag, max_batch=scheduler.max_batch)
        self._mail: dict[Key, _Mail] = {}
        self._news = threading.Condition()
        self._stopping = False
        self._ready = threading.Event()
        self._failed = False
        self._busy_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread, which first warms the engine up."""
        self._thread.start()

    def stop(self, *, seconds: float = 5.0) -> None:
        """Stop after the running step. Sessions that are open are dropped."""
        with self._news:
            self._stopping = True
            self._news.notify()
        self._thread.join(seconds)

    @property
    def ready(self) -> bool:
        """The engine is warm and its thread lives."""
        return self._ready.is_set() and self._thread.is_alive()

    @property
    def failed(self) -> bool:
        """The warm-up raised: this runner will never be ready."""
        return self._failed

    def stuck(self) -> float:
        """Seconds that the running step has taken so far: 0 when idle, very long when the device hangs."""
        since = self._busy_since
        return 0.0 if since is None else self._clock() - since

    def load(self, *, streams: int = 0) -> float:
        """The share of the allowed lag that is used, or would be with so many streams in all: see `streaming.load`."""
        return self._load(self._clock(), streams=streams)

    # ---- from any thread

    def open(self, key: Key, options: Options) -> None:
        with self._news:
            self._mail[key] = _Mail(options=options)
            self._news.notify()

    def push(self, key: Key, data: bytes) -> None:
        with self._news:
            mail = self._mail.setdefault(key, _Mail())
            if not mail.audio:
                mail.since = self._clock()
            mail.audio += data
            self._news.notify()

    def update(self, key: Key, options: Options) -> None:
        """Holds from the next step on, if not from the one before: what audio waits is not told apart."""
        with self._news:
            self._mail.setdefault(key, _Mail()).changed = options
            self._news.notify()

    def end(self, key: Key) -> None:
        with self._news:
            self._mail.setdefault(key, _Mail()).ended = True
            self._news.notify()

    def drop(self, key: Key) -> None:
        with self._news:
            self._mail[key] = _Mail(dropped=True)
            self._news.notify()

    # ---- the engine's thread

    def _run(self) -> None:
        try:
            for name, engine in self._scheduler.engines.items():
                for step in warm_up(engine, batches=sorted({1, min(8, self._scheduler.max_batch)})):
                    self._load.stepped(name, *step)
            self._load.streams({})
        except Exception:
            _log.exception("the engine failed its warm-up")
            self._failed = True
            return
        self._ready.set()
        while True:
            with self._news:
                while not (self._mail or self._stopping or self._scheduler.ready):
                    self._news.wait()
                if self._stopping:
                    return
                mail, self._mail = self._mail, {}
            self._busy_since = self._clock()
            for key, letter in mail.items():
                self._open(key, letter)
            tick = self._tick()
            self._load.streams(self._scheduler.kinds())
            self._busy_since = None
            if tick.results:
                self._deliver(tick.results)

    def _open(self, key: Key, letter: _Mail) -> None:
        if letter.dropped:
            self._scheduler.drop(key)
            return
        if letter.options is not None:
            self._scheduler.open(key, letter.options)
        if letter.changed is not None:
            self._scheduler.update(key, letter.changed)
        if letter.audio:
            self._scheduler.push(key, bytes(letter.audio), letter.since)
        if letter.ended:
            self._scheduler.end(key, self._clock())

    def _tick(self) -> Tick:
        before = self._clock()
        try:
            tick = self._scheduler.tick(before)
        except Exception:
            _log.exception("a tick failed; every open session is given up")
            return self._scheduler.abandon(
                Failed("engine", "the recogniser failed; please open a new session")
            )
        seconds = max(0.0, self._clock() - before)
        if tick.streams:
            # The scheduler counted to the tick's start; the words are out at its end.
            tick = tick.later(seconds)
            self._load.stepped(tick.model, tick.streams, tick.audio, seconds)
            self._load.waited(tick.waited, before)
            if self._observer is not None:
                self._observer.stepped(tick, seconds)
        return tick
