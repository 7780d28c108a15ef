"""The thread that owns the engine: it takes what clients did from a mailbox, ticks the scheduler, tells what came of
it.
"""

from __future__ import annotations

import ctypes
import logging
import threading
import time
from collections.abc import Callable, Hashable
from typing import Any

from streaming.engine import warm_up
from streaming.events import Failed
from streaming.load import Load
from streaming.mailbox import Letter, Mailbox
from streaming.scheduler import Scheduler, Tick

__all__ = ["LOST", "Runner", "Tell"]

_log = logging.getLogger(__name__)

Key = Hashable

LOST = Failed("engine", "the recogniser failed; please open a new session")

Tell = Callable[[Tick, float], None]
"""Is told of what a tick brought, and how many seconds its step took. It must not wait."""


class Runner(Mailbox):
    """What clients do is posted from any thread. `tell` is called in the engine's thread."""

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        tell: Tell,
        lag: float | None = 0.5,
        busy_since: Any = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`busy_since`: a shared number in which another process is to see when the running step began."""
        super().__init__(clock)
        self._scheduler = scheduler
        self._tell = tell
        self.load_model = Load(lag=lag, max_batch=scheduler.max_batch)
        self._ready = threading.Event()
        self._failed = False
        self._busy_since = ctypes.c_double() if busy_since is None else busy_since
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread, which first warms the engine up."""
        self._thread.start()

    def stop(self, *, seconds: float = 5.0) -> None:
        """Stop after the running step. Sessions that are open are dropped."""
        self.close()
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
        since = self._busy_since.value
        return self._clock() - since if since else 0.0

    def load(self, *, streams: int = 0) -> float:
        """The share of the allowed lag that is used, or would be with so many streams in all: see `streaming.load`."""
        return self.load_model(self._clock(), streams=streams)

    # ---- the engine's thread

    def _run(self) -> None:
        try:
            for name, engine in self._scheduler.engines.items():
                for step in warm_up(engine, batches=sorted({1, min(8, self._scheduler.max_batch)})):
                    self.load_model.stepped(name, *step)
            self.load_model.streams({})
        except Exception:
            _log.exception("the engine failed its warm-up")
            self._failed = True
            return
        self._ready.set()
        kinds = self._scheduler.kinds()
        while (letters := self.take(wait=not self._scheduler.ready)) is not None:
            self._busy_since.value = self._clock()
            for key, letter in letters.items():
                self._open(key, letter)
            tick, seconds = self._tick()
            before, kinds = kinds, self._scheduler.kinds()
            self.load_model.streams(kinds)
            self._busy_since.value = 0.0
            if tick.streams or tick.results or kinds != before:
                self._tell(tick, seconds)

    def _open(self, key: Key, letter: Letter) -> None:
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

    def _tick(self) -> tuple[Tick, float]:
        before = self._clock()
        try:
            tick = self._scheduler.tick(before)
        except Exception:
            _log.exception("a tick failed; every open session is given up")
            return self._scheduler.abandon(LOST), 0.0
        seconds = max(0.0, self._clock() - before)
        if tick.streams:
            # The scheduler counted to the tick's start; the words are out at its end.
            tick = tick.later(seconds)
            self.load_model.stepped(tick.model, tick.streams, tick.audio, seconds)
            self.load_model.waited(tick.waited, before)
        return tick, seconds
