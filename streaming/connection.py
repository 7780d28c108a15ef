"""One client's connection: a reader that does what its protocol makes of messages, and a writer of events.

Both are slowed by the other side: the reader stops reading while too much audio waits for the engine, and the
writer closes a client that does not take its text.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from asr.errors import RillError
from streaming.codecs import Splitter, splitter
from streaming.events import Ended, Event, Failed, Final, Heard, Options
from streaming.log import log_event, log_text
from streaming.outbox import Outbox, Outgoing
from streaming.pace import Pace
from streaming.protocols import (
    Action,
    Audio,
    Close,
    Dialect,
    Finish,
    Limits,
    Send,
    Start,
    Update,
    close_reason,
)

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection

    from streaming.crew import Crew
    from streaming.metrics import Metrics
    from streaming.runner import Runner
    from streaming.scheduler import Result

__all__ = ["Connection"]

_log = logging.getLogger(__name__)

_CLOSE_SECONDS = 2.0


@dataclass(frozen=True)
class _Closing:
    """How the connection will close once the last events are out."""

    code: int
    kind: str
    reason: str


_NORMAL = _Closing(1000, "ended", "all audio was recognised")


class Connection:
    """Lives in the event loop, from handshake to close. Its sessions follow one another, never two at a time."""

    def __init__(
        self,
        socket: ServerConnection,
        dialect: Dialect,
        *,
        key: str,
        protocol: str,
        runner: Runner | Crew,
        limits: Limits,
        metrics: Metrics,
    ) -> None:
        self.key = key
        self._socket = socket
        self._dialect = dialect
        self._protocol = protocol
        self._runner = runner
        self._limits = limits
        self._metrics = metrics
        self._outbox = Outbox(finals=limits.queued_finals)
        self._pace = Pace(limits.messages_per_second)
        self._session = 0
        self._splitter: Splitter | None = None  # while audio may be pushed
        self._ended = asyncio.Event()  # no session is open
        self._ended.set()
        self._finished = False  # no more audio will be pushed, nor sessions be opened
        self._closing = _NORMAL
        self._closed = "vanished"
        self._heard = 0.0  # seconds of audio in the sessions before
        self._pushed = 0.0
        self._position = 0.0
        self._lag = 0.0
        self._room = asyncio.Event()
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Returns when the connection is closed, whoever closed it."""
        tasks = [asyncio.create_task(x) for x in (self._read(), self._write(), self._stop.wait())]
        try:
            for action in self._dialect.open():
                await self._act(action)
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done() and (error := task.exception()) is not None and not _gone(error):
                    raise error
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._runner.drop(self._session_key)
            if self._stop.is_set():
                await self._cut()
            self._report()

    @property
    def _session_key(self) -> str:
        return f"{self.key}/{self._session}"

    # ---- from the engine and the server

    def deliver(self, result: Result) -> None:
        """What the scheduler did for a session."""
        if result.key != self._session_key or self._ended.is_set():
            return  # of a session that was dropped
        self._position = result.position
        if result.events:
            self._lag = result.lag
        for event in result.events:
            if isinstance(event, Final):
                log_text(self.key, event.text)
            last = isinstance(event, Failed) or (isinstance(event, Ended) and self._finished)
            self._outbox.put(Outgoing(event, result.lag, last))
            if isinstance(event, Ended | Failed):
                self._finished |= last
                self._splitter = None
                self._ended.set()
        if self._dialect.wants_heard and not self._ended.is_set():
            self._outbox.put(Outgoing(Heard(result.position), result.lag))
        self._room.set()
        if self._outbox.overfull:
            self._give_up(
                "slow_reader",
                f"{self._limits.queued_finals} finals were left unread: read messages as they come",
            )

    def wind_up(self, code: int, kind: str, reason: str) -> None:
        """End the session as if its client had, then close for this reason. Finals of all audio so far are
        sent.
        """
        if self._closing is not _NORMAL:
            return
        self._closing = _Closing(code, kind, reason)
        if self._ended.is_set() and not self._finished:
            self._outbox.put(Outgoing(None, last=True))
        self._end()
        self._finished = True
        self._room.set()

    def _end(self) -> None:
        """The open session, if there is one, gets no more audio."""
        if self._splitter is not None:
            self._splitter = None
            self._runner.end(self._session_key)

    def abort(self) -> None:
        """Cut the connection, without a closing handshake."""
        self._socket.transport.abort()

    async def _cut(self) -> None:
        """Close a client that was given up: soon, and with the reason if it still takes a close frame."""
        self._closed = self._closing.kind
        with contextlib.suppress(TimeoutError, ConnectionClosed, OSError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._socket.close(self._closing.code, close_reason(self._closing.reason))
        self.abort()

    def _give_up(self, kind: str, reason: str) -> None:
        self._runner.drop(self._session_key)
        self._closing = _Closing(1008, kind, reason)
        self._stop.set()

    def _drop(self) -> None:
        """Nothing of the open session is wanted any more, and no other will follow."""
        self._finished = True
        self._splitter = None
        self._runner.drop(self._session_key)
        self._ended.set()

    # ---- reading

    async def _read(self) -> None:
        limits = self._limits
        while not self._finished:
            try:
                async with asyncio.timeout(limits.idle_seconds):
                    message = await self._socket.recv()
            except TimeoutError:
                self.wind_up(1008, "idle", f"no message for {limits.idle_seconds:g} s")
                break
            await self._receive(message)
        # The close frame must still be read, and what a client sends meanwhile is answered or passed over.
        while True:
            await self._receive(await self._socket.recv())

    async def _receive(self, message: str | bytes) -> None:
        await self._pace.next()
        if self._closing is _NORMAL:
            for action in self._dialect.receive(message):
                await self._act(action)

    async def _act(self, action: Action) -> None:
        match action:
            case Start(options):
                await self._start(options)
            case Update(options):
                if not self._ended.is_set():
                    self._runner.update(self._session_key, options)
            case Audio(data):
                await self._push(data)
            case Send(message):
                self._outbox.put(Outgoing(message))
                await self._outbox.room()
            case Finish(more):
                if not more and self._ended.is_set() and not self._finished:
                    self._outbox.put(Outgoing(None, last=True))
                self._finished |= not more
                self._end()
            case Close(code, reason, kind):
                self._drop()
                self._closing = _Closing(code, kind, reason)
                self._outbox.put(Outgoing(None, last=True))

    async def _start(self, options: Options) -> None:
        await self._ended.wait()
        if self._finished:
            return
        self._heard += self._pushed
        self._pushed = self._position = 0.0
        self._session += 1
        self._ended.clear()
        self._splitter = splitter(options)
        self._runner.open(self._session_key, options)
        self._metrics.opened.labels(self._protocol).inc()

    async def _push(self, data: bytes) -> None:
        """Hand audio over in pieces, each when there is room for it."""
        if self._splitter is None:
            return
        try:
            for piece, seconds in self._splitter.push(data):
                await self._push_piece(piece, seconds)
        except RillError as error:
            self._drop()
            self._outbox.put(Outgoing(Failed("bad_audio", str(error)), last=True))

    async def _push_piece(self, piece: bytes, seconds: float) -> None:
        while self._pushed - self._position > self._limits.backlog_seconds and self._splitter is not None:
            self._room.clear()
            await self._room.wait()
        if self._splitter is not None:
            self._runner.push(self._session_key, piece)
            self._pushed += seconds
            self._metrics.audio.inc(seconds)
            if self._heard + self._pushed >= self._limits.session_seconds:
                self.wind_up(
                    1008, "session_length", f"{self._limits.session_seconds:g} s of audio in one session"
                )

    # ---- writing

    async def _write(self) -> None:
        last = None
        while last is None:
            items = await self._outbox.take()
            last = next((i for i, outgoing in enumerate(items) if outgoing.last), None)
            items = items[: None if last is None else last + 1]
            for message in self._messages(items):
                await self._send(message)
        if isinstance(failed := items[-1].item, Failed):
            self._metrics.errors.labels(failed.code).inc()
            self._closing = _Closing(1011 if failed.code == "engine" else 1007, failed.code, failed.message)
        closing = self._closing
        for message in self._dialect.bye(closing.kind, closing.reason, lag=self._lag):
            await self._send(message)
        self._closed = closing.kind
        await self._socket.close(closing.code, close_reason(closing.reason))

    def _messages(self, items: Sequence[Outgoing]) -> list[str]:
        """Events that wait together are turned into messages together: a protocol may join the last ones."""
        messages: list[str] = []
        events: list[Event] = []
        for outgoing in items:
            if isinstance(outgoing.item, str):
                messages += [*self._dialect.send(events, lag=self._lag), outgoing.item]
                events = []
            elif outgoing.item is not None:
                events.append(outgoing.item)
        return messages + self._dialect.send(events, lag=items[-1].lag)

    async def _send(self, message: str) -> None:
        try:
            async with asyncio.timeout(self._limits.send_seconds):
                await self._socket.send(message)
        except TimeoutError:
            self._give_up("slow_reader", f"a message was not taken for {self._limits.send_seconds:g} s")
            await asyncio.Event().wait()  # until `run` cancels this task

    def _report(self) -> None:
        reason, sent = self._closed, self._socket.protocol.close_sent
        if reason == "vanished" and sent is not None and sent.code == CloseCode.MESSAGE_TOO_BIG:
            reason = "message_bytes"  # the websocket itself closed it
        self._metrics.closed.labels(reason).inc()
        log_event(
            _log,
            "closed",
            session=self.key,
            reason=reason,
            audio_seconds=round(self._heard + self._pushed, 2),
            recognised_seconds=round(self._heard + self._position, 2),
            lag_ms=round(1000 * self._lag),
        )


def _gone(error: BaseException) -> bool:
    return isinstance(error, ConnectionClosed | OSError)
