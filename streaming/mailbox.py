"""What clients did since somebody last looked: the way from the event loop to those who step their sessions."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field

from streaming.events import Options

__all__ = ["Letter", "Mailbox"]

Key = Hashable


@dataclass
class Letter:
    """What one client did, in this order. Packets are joined: one decoding for many of them. `since`: when the first
    of them came.
    """

    options: Options | None = None
    audio: bytearray = field(default_factory=bytearray)
    since: float = 0.0
    changed: Options | None = None
    ended: bool = False
    dropped: bool = False


class Mailbox:
    """All may be called from any thread, and all but `take` returns at once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._letters: dict[Key, Letter] = {}
        self._news = threading.Condition()
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    def open(self, key: Key, options: Options) -> None:
        self.post({key: Letter(options=options)})

    def push(self, key: Key, data: bytes) -> None:
        self.post({key: Letter(audio=bytearray(data), since=self._clock())})

    def update(self, key: Key, options: Options) -> None:
        """Holds from the next step on, if not from the one before: what audio waits is not told apart."""
        self.post({key: Letter(changed=options)})

    def end(self, key: Key) -> None:
        self.post({key: Letter(ended=True)})

    def drop(self, key: Key) -> None:
        self.post({key: Letter(dropped=True)})

    def post(self, letters: Mapping[Key, Letter]) -> None:
        """Letters that another mailbox has gathered."""
        with self._news:
            for key, new in letters.items():
                old = self._letters.get(key)
                if old is None or new.options is not None or new.dropped:
                    self._letters[key] = new
                    continue
                if not old.audio:
                    old.since = new.since
                old.audio += new.audio
                old.changed = new.changed or old.changed
                old.ended |= new.ended
            self._news.notify()

    def close(self) -> None:
        """Nobody will read what comes."""
        with self._news:
            self._closed = True
            self._news.notify_all()

    def take(self, *, wait: bool) -> dict[Key, Letter] | None:
        """All letters; `wait` for some. `None` when closed."""
        with self._news:
            if wait:
                self._news.wait_for(lambda: self._letters or self._closed)
            letters, self._letters = self._letters, {}
            return None if self._closed else letters
