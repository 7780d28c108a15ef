"""A client of the native protocol: sends a recording or live audio, and goes on after a broken connection.

    async for event in stream("talk.wav", "ws://127.0.0.1:8000/v1/stream"):
        ...  # Partial, Final; the last one is a Summary
    summary = stream_file("talk.wav", url, on_event=print)

`asr stream` is the second form. Where a server dies, drains or cuts a session for its length, the client connects again
and sends what is not settled yet, so that no word is lost and none comes twice (`streaming.resume`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from asr.audio import SAMPLE_RATE, read
from asr.errors import ProtocolError
from asr.text import join_words
from asr.transcript import Word
from streaming.events import ENCODINGS, Encoding, Final, Partial
from streaming.resume import Tape, Told

__all__ = ["Summary", "start_fields", "stream", "stream_file"]

Source = str | PathLike[str] | np.ndarray | AsyncIterable[np.ndarray]

_TAPE_SECONDS = 300.0
_AGAIN = frozenset({"shutdown", "session_length"})
"""Of a server's last words, those after which another session can go on."""
_BUSY = frozenset({429, 502, 503, 504})
_PING_SECONDS = 60.0
"""Without an answer to a ping, a connection is dead. A server that holds a fast sender back answers late."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What came of a stream, and how quickly. Times are seconds; `None` where no word came.

    `first_word_latency`: from when the end of the first word had been sent, as the server timed that word, to
    the first text. Of meaning at real-time pace only. `final_latency`: from the last audio sent to the last
    text. `lag` is the largest that the server told.
    """

    text: str
    words: tuple[Word, ...]
    duration: float
    first_word_latency: float | None
    final_latency: float | None
    lag: float


class _Stopwatch:
    def __init__(self) -> None:
        self._sent: list[tuple[float, float]] = []  # (seconds of audio, when), until the first word
        self.done: float | None = None
        self._first: tuple[float, float] | None = None  # (end of the first word, when it was read)
        self.last: float | None = None
        self.first_word_latency: float | None = None

    def sent(self, seconds: float) -> None:
        if self.first_word_latency is None:
            self._sent.append((seconds, time.monotonic()))

    def text(self, event: Partial | Final) -> None:
        self.last = time.monotonic()
        if self.first_word_latency is None and event.words and self._sent:
            end = event.words[0].end
            sent_at = next((when for seconds, when in self._sent if seconds >= end), self._sent[-1][1])
            self.first_word_latency = self.last - sent_at
            self._sent.clear()

    @property
    def final_latency(self) -> float | None:
        return None if self.last is None or self.done is None else max(0.0, self.last - self.done)


async def stream(
    source: Source,
    url: str,
    *,
    sample_rate: int = SAMPLE_RATE,
    realtime: bool = True,
    latency_ms: int | None = None,
    encoding: Encoding = "s16le",
    packet_seconds: float = 0.1,
    patience: float = 30.0,
    token: str | None = None,
    tls: ssl.SSLContext | None = None,
    options: dict[str, Any] | None = None,
) -> AsyncIterator[Partial | Final | Summary]:
    """Send a file, or float samples (n,) of `sample_rate`, and yield what comes back; at last a `Summary`.

    `source` may also be live: an asynchronous iterator over packets of samples. `options` are further fields of the
    protocol's `start`. For `patience` seconds after the last that was heard of a server another one is looked for at
    the same address, if there was one at all; 0: the stream ends with its first connection. Memory is bounded: five
    minutes of audio that is not settled, and the text.

    Raises AudioError for a file that cannot be read, and ProtocolError with the server's reason where it refuses, fails
    or closes early.
    """
    if encoding not in ("s16le", "f32le"):
        raise ProtocolError(f"encoding is {encoding!r}; this client sends s16le or f32le")
    if isinstance(source, str | PathLike):
        source, sample_rate = read(source), SAMPLE_RATE
    start = {"type": "start", "sample_rate": sample_rate, "encoding": encoding, **(options or {})}
    if latency_ms is not None:
        start["latency_ms"] = latency_ms
    told = Told(sample_rate, words=start.get("words") is not False)
    start["words"] = True  # by their times the client knows which it has had
    tape = Tape(ENCODINGS[encoding], limit=round(_TAPE_SECONDS * sample_rate))
    live = _Stream(start, told, tape, most=max(1, round(packet_seconds * sample_rate)))
    packets = (
        source if isinstance(source, AsyncIterable) else _paced(source, live.most, sample_rate, realtime)
    )
    recorder = asyncio.create_task(_record(packets, tape, encoding))
    finals: list[Final] = []
    pause, heard = 0.1, time.monotonic()
    try:
        socket: ClientConnection | None = await _connect(url, token, tls)
        while not live.complete:
            if socket is None:
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # not all clients at the same time
                pause = min(2 * pause, 2.0)
                with contextlib.suppress(_BusyError):
                    socket = await _connect(url, token, tls)
            if socket is not None:
                async with socket, contextlib.aclosing(live.session(socket)) as events:
                    async for event in events:
                        pause, heard = 0.1, time.monotonic()
                        if isinstance(event, Final):
                            finals.append(event)
                        yield event
                socket = None
            if recorder.done():
                recorder.result()  # raises what the source raised
            if not live.complete and (live.final or time.monotonic() - heard >= patience):
                raise ProtocolError(f"{url}: {live.broken}")
    finally:
        recorder.cancel()
        await asyncio.gather(recorder, return_exceptions=True)
    yield Summary(
        text=join_words(final.text for final in finals),
        words=tuple(word for final in finals for word in final.words),
        duration=tape.end / sample_rate,
        first_word_latency=live.watch.first_word_latency,
        final_latency=live.watch.final_latency,
        lag=live.lag,
    )


class _BusyError(ProtocolError):
    """No server can be had now; there may be one soon."""


class _Stream:
    """A stream over one connection after another. `complete`: the server has told all of it; `broken`: what ended the
    last session; `final`: no other can follow.
    """

    def __init__(self, start: dict[str, Any], told: Told, tape: Tape, *, most: int) -> None:
        self._start, self._told, self._tape = start, told, tape
        self.most = most
        self.watch = _Stopwatch()
        self.lag = 0.0
        self.complete = False
        self.broken = ""
        self.final = False

    async def session(self, socket: ClientConnection) -> AsyncGenerator[Partial | Final]:
        told, bye, before = self._told, None, self._told.settled
        self._tape.rewind(told.begin())
        sender = asyncio.create_task(self._send(socket))
        try:
            async for message in _messages(socket):
                event: Partial | Final | None = None
                match message["type"]:
                    case "partial":
                        event = told.partial(message)
                    case "final":
                        event = told.final(message)
                    case "settled":
                        told.silence(message)
                    case "error":
                        self.broken, self.final = message["message"], True
                    case "bye":
                        bye = message
                        self.complete = bye["code"] == "ended"
                        if not self.final:
                            self.broken = f"the server closed the stream: {bye['reason']}"
                            stuck = bye["code"] == "session_length" and told.settled == before
                            self.final = bye["code"] not in _AGAIN or stuck
                        event = told.end(complete=self.complete)
                if event is not None:
                    self.watch.text(event)
                    self.lag = max(self.lag, message["lag_ms"] / 1000)
                    yield event
                self._tape.forget(told.needed)
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
            self._tape.rewind(max(told.needed, self._tape.start))
        if bye is None:
            self.broken = "the connection broke, and no other server was found"
            if (event := told.end(complete=False)) is not None:
                yield event

    async def _send(self, socket: ClientConnection) -> None:
        rate = self._start["sample_rate"]
        try:
            await socket.send(json.dumps(self._start))
            while data := await self._tape.read(self.most):
                await socket.send(data)
                self.watch.sent(self._tape.position / rate)
            self.watch.done = time.monotonic()
            await socket.send('{"type": "end"}')
        except ConnectionClosed:
            pass  # the reader sees it too, and knows the server's reason


async def _paced(samples: np.ndarray, size: int, rate: int, realtime: bool) -> AsyncIterator[np.ndarray]:
    began = time.monotonic()
    for i in range(0, len(samples), size):
        packet = samples[i : i + size]
        if realtime:  # a packet can be sent when its last sample has been spoken
            await asyncio.sleep(began + (i + len(packet)) / rate - time.monotonic())
        yield packet


async def _record(packets: AsyncIterable[np.ndarray], tape: Tape, encoding: Encoding) -> None:
    try:
        async for packet in packets:
            await tape.append(_encode(packet, encoding))
    finally:
        await tape.close()


def stream_file(
    path: Source,
    url: str,
    *,
    on_event: Callable[[Partial | Final], None] | None = None,
    **options: Any,
) -> Summary:
    """`stream` for code that is not asynchronous: `on_event` is called as text comes. Options are those of
    `stream`.
    """

    async def drain() -> Summary:
        async for event in stream(path, url, **options):
            if isinstance(event, Summary):
                return event
            if on_event is not None:
                on_event(event)
        raise ProtocolError(f"{url}: the stream ended without a summary")

    return asyncio.run(drain())


def start_fields(head: str | None, search: Mapping[str, Any]) -> dict[str, Any]:
    """Of a head and fields of `asr.search.config.SearchConfig`, the native protocol's `start`."""
    chosen = dict(search)
    phrases = list(chosen.pop("phrases", ()))
    fields = {"head": head, "phrases": phrases or None, "search": chosen}
    return {name: value for name, value in fields.items() if value}


async def _connect(url: str, token: str | None, tls: ssl.SSLContext | None) -> ClientConnection:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    try:
        return await connect(
            url,
            additional_headers=headers,
            ssl=tls,
            compression=None,
            ping_timeout=_PING_SECONDS,
            max_size=None,
        )
    except InvalidStatus as error:
        status, body = (
            error.response.status_code,
            (error.response.body or b"").decode(errors="replace").strip(),
        )
        kind = _BusyError if status in _BUSY else ProtocolError
        raise kind(f"{url}: refused with HTTP {status}: {body or 'no reason given'}") from error
    except (OSError, WebSocketException, TimeoutError) as error:
        raise _BusyError(f"{url}: cannot connect ({error}); is `asr serve` running there?") from error


def _encode(samples: np.ndarray, encoding: Encoding) -> bytes:
    if encoding == "f32le":
        return samples.astype("<f4").tobytes()
    return np.clip(np.rint(samples * 32768.0), -32768, 32767).astype("<i2").tobytes()


async def _messages(socket: ClientConnection) -> AsyncIterator[dict[str, Any]]:
    try:
        async for message in socket:
            yield json.loads(message)
    except ConnectionClosed:
        return
