"""Several processes that step sessions beside one another, each on a core of its own: to the server, one runner.

In one process the event loop, which must answer each packet, and the steps, which are many short calls, would take
Python's one lock from each other all the time; and two threads in one step would wait for each other at each of its
small products. So every process has sessions of its own, all of a session's life, and the server's has none.

The processes are copies of the server's (fork): they share the memory of its models.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Hashable
from multiprocessing.connection import Connection

from streaming.events import Ended, Failed, Options
from streaming.load import Load
from streaming.mailbox import Mailbox
from streaming.runner import LOST, Runner, Tell
from streaming.scheduler import Result, Scheduler, Tick

__all__ = ["Crew"]

_log = logging.getLogger(__name__)

_GATHER_SECONDS = 0.02
"""Packets of so long a time are sent to a process together."""

Key = Hashable


class Crew:
    """Has the methods of a `Runner`. A process that dies takes its sessions with it, which are told, and another takes
    its place. One that dies before it is warm would do so again: then the server is unhealthy, to be started anew.
    """

    def __init__(self, scheduler: Scheduler, processes: int, *, tell: Tell, lag: float | None = 0.5) -> None:
        self._tell = tell
        self._members = [_Member(self, scheduler, lag) for _ in range(processes)]
        self._of: dict[Key, _Member] = {}
        self.opening = threading.Lock()
        """Held while a session is given to a process, or a process's sessions are given up."""

    def start(self) -> None:
        """Start the processes, which first warm their engines up."""
        gc.collect()
        gc.freeze()  # what is never looked at again stays shared
        for member in self._members:
            member.start()

    def stop(self, *, seconds: float = 5.0) -> None:
        """Stop after the running steps. Sessions that are open are dropped."""
        until = time.monotonic() + seconds
        for member in self._members:
            member.mail.close()
        for member in self._members:
            member.stop(until)

    @property
    def ready(self) -> bool:
        """All engines are warm, and all processes live."""
        return all(member.load is not None for member in self._members) and not self.failed

    @property
    def failed(self) -> bool:
        """A process has died before it was warm."""
        return any(member.lost for member in self._members)

    def stuck(self) -> float:
        """As `Runner.stuck`: of the process whose step takes longest."""
        since = [x.busy_since.value for x in self._members if x.busy_since.value]
        return time.monotonic() - min(since) if since else 0.0

    def load(self, *, streams: int = 0) -> float:
        """As `Runner.load`: of the process that has most to do, where the streams are spread over all."""
        now, share = time.monotonic(), -(-streams // len(self._members))
        return max(x.load(now, streams=share) if x.load is not None else 0.0 for x in self._members)

    # ---- from the event loop

    def open(self, key: Key, options: Options) -> None:
        with self.opening:
            member = min(self._members, key=lambda x: (x.lost, len(x.keys)))
            member.keys.add(key)
            self._of[key] = member
            member.mail.open(key, options)

    def push(self, key: Key, data: bytes) -> None:
        if (member := self._of.get(key)) is not None:
            member.mail.push(key, data)

    def update(self, key: Key, options: Options) -> None:
        if (member := self._of.get(key)) is not None:
            member.mail.update(key, options)

    def end(self, key: Key) -> None:
        if (member := self._of.get(key)) is not None:
            member.mail.end(key)

    def drop(self, key: Key) -> None:
        if (member := self._forget(key)) is not None:
            member.mail.drop(key)

    def _forget(self, key: Key) -> _Member | None:
        member = self._of.pop(key, None)
        if member is not None:
            member.keys.discard(key)
        return member

    # ---- from the processes

    def told(self, tick: Tick, seconds: float) -> None:
        for result in tick.results:
            if result.events and isinstance(result.events[-1], Ended | Failed):
                self._forget(result.key)
        self._tell(tick, seconds)


class _Member:
    """A process and its sessions, as the server's process sees them. `load`: its own, once it is warm."""

    def __init__(self, crew: Crew, scheduler: Scheduler, lag: float | None) -> None:
        self._crew, self._scheduler, self._lag = crew, scheduler, lag
        self.mail = Mailbox()
        self.keys: set[Key] = set()
        self.load: Load | None = None
        self.lost = False
        self.busy_since = multiprocessing.RawValue("d", 0.0)
        self._process = 0
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        here, there = multiprocessing.Pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the copy needs none of the threads here
            self._process = os.fork()
        if not self._process:
            try:
                # Sockets, above all: what is open in a copy stays open when the server closes it.
                os.closerange(3, there.fileno())
                os.closerange(there.fileno() + 1, 1 << 20)
                _serve(there, self._scheduler, self._lag, self.busy_since)
            finally:
                os._exit(0)
        there.close()
        self._threads = [
            threading.Thread(target=self._send, args=(here, self.mail), daemon=True),
            threading.Thread(target=self._receive, args=(here, self.mail), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def stop(self, until: float) -> None:
        if not self._process:
            return
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            os.kill(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)
        self._process = 0

    def _send(self, connection: Connection, mail: Mailbox) -> None:
        with contextlib.suppress(OSError):
            while (letters := mail.take(wait=True)) is not None:
                connection.send(letters)
                time.sleep(_GATHER_SECONDS)
            connection.send(None)

    def _receive(self, connection: Connection, mail: Mailbox) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                tick, seconds, load = connection.recv()
                self.load = load
                self._crew.told(tick, seconds)
        if not mail.closed:
            mail.close()
            self._replace()

    def _replace(self) -> None:
        """The process is gone."""
        with self._crew.opening:
            keys, self.mail = list(self.keys), Mailbox()
            self.lost, self.load = self.load is None, None
        _log.error("process %d is gone, with %d sessions", self._process, len(keys))
        self._crew.told(Tick([Result(key, (LOST,), 0.0, 0.0) for key in keys]), 0.0)
        if not self.lost:
            os.waitpid(self._process, 0)
            self.busy_since.value = 0.0
            self.start()


def _serve(connection: Connection, scheduler: Scheduler, lag: float | None, busy_since: object) -> None:
    """A process's life: until the server's says so, or is gone. Signals are the server's to hear, which drains."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)

    def tell(tick: Tick, seconds: float) -> None:
        with contextlib.suppress(OSError):  # the server's process is gone, and this one about to end
            connection.send((tick, seconds, runner.load_model))

    runner = Runner(scheduler, tell=tell, lag=lag, busy_since=busy_since)
    runner.start()
    while not (runner.ready or runner.failed):
        time.sleep(0.01)
    if runner.ready:
        tell(Tick([]), 0.0)
        with contextlib.suppress(EOFError, OSError):
            while (letters := connection.recv()) is not None:
                runner.post(letters)
