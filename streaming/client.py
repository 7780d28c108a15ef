"""A client of the native protocol: sends a recording, at the pace it was spoken or as fast as it is taken.

    async for event in stream("talk.wav", "ws://127.0.0.1:8000/v1/stream"):
        ...  # Partial, Final; the last one is a Summary
    summary = stream_file("talk.wav", url, on_event=print)

`asr stream` is the second form.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from asr.audio import SAMPLE_RATE, read
from asr.errors import ProtocolError
from asr.transcript import Word
from streaming.events import Encoding, Final, Partial

__all__ = ["Summary", "stream", "stream_file"]

Source = str | PathLike[str] | np.ndarray


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
        self.sent: list[tuple[float, float]] = []  # (seconds of audio, when)
        self.done: float | None = None
        self.first: tuple[float, float] | None = None  # (end of the first word, when it was read)
        self.last: float | None = None

    def text(self, event: Partial | Final) -> None:
        self.last = time.monotonic()
        if self.first is None and event.words:
            self.first = (event.words[0].end, self.last)

    @property
    def first_word_latency(self) -> float | None:
        if self.first is None:
            return None
        end, read_at = self.first
        sent_at = next((when for seconds, when in self.sent if seconds >= end), self.sent[-1][1])
        return read_at - sent_at

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
    token: str | None = None,
    tls: ssl.SSLContext | None = None,
    options: dict[str, Any] | None = None,
) -> AsyncIterator[Partial | Final | Summary]:
    """Send a file, or float samples (n,) of `sample_rate`, and yield what comes back; at last a `Summary`.

    `options` are further fields of the protocol's `start`. Raises AudioError for a file that cannot be read,
    and ProtocolError with the server's reason where it refuses, fails or closes early.
    """
    samples, rate = (source, sample_rate) if isinstance(source, np.ndarray) else (read(source), SAMPLE_RATE)
    start = {"type": "start", "sample_rate": rate, "encoding": encoding, **(options or {})}
    if latency_ms is not None:
        start["latency_ms"] = latency_ms
    watch, finals, lag, bye = _Stopwatch(), [], 0.0, None
    async with await _connect(url, token, tls) as socket:
        sender = asyncio.create_task(
            _send(socket, start, samples, rate, encoding, packet_seconds, realtime, watch)
        )
        try:
            async for message in _messages(socket):
                match message["type"]:
                    case "partial" | "final":
                        event = _event(message)
                        watch.text(event)
                        lag = max(lag, message["lag_ms"] / 1000)
                        if isinstance(event, Final):
                            finals.append(event)
                        yield event
                    case "error":
                        raise ProtocolError(f"{url}: {message['message']}")
                    case "bye":
                        bye = message
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
    if bye is None:
        raise ProtocolError(
            f"{url}: the connection broke after {len(finals)} finals; is the server still running?"
        )
    if bye["code"] != "ended":
        raise ProtocolError(f"{url}: the server closed the stream: {bye['reason']}")
    yield Summary(
        text=" ".join(final.text for final in finals),
        words=tuple(word for final in finals for word in final.words),
        duration=bye["duration"],
        first_word_latency=watch.first_word_latency,
        final_latency=watch.final_latency,
        lag=lag,
    )


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


async def _connect(url: str, token: str | None, tls: ssl.SSLContext | None) -> ClientConnection:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    try:
        # A server that holds a fast sender back answers its pings as late: only a closed connection counts.
        return await connect(
            url, additional_headers=headers, ssl=tls, compression=None, ping_timeout=None, max_size=None
        )
    except InvalidStatus as error:
        body = (error.response.body or b"").decode(errors="replace").strip()
        raise ProtocolError(
            f"{url}: refused with HTTP {error.response.status_code}: {body or 'no reason given'}"
        ) from error
    except (OSError, WebSocketException, TimeoutError) as error:
        raise ProtocolError(f"{url}: cannot connect ({error}); is `asr serve` running there?") from error


async def _send(
    socket: ClientConnection,
    start: dict[str, Any],
    samples: np.ndarray,
    rate: int,
    encoding: Encoding,
    packet_seconds: float,
    realtime: bool,
    watch: _Stopwatch,
) -> None:
    try:
        await socket.send(json.dumps(start))
        size = max(1, round(rate * packet_seconds))
        began = time.monotonic()
        for i in range(0, len(samples), size):
            packet = samples[i : i + size]
            if realtime:  # a packet can be sent when its last sample has been spoken
                await asyncio.sleep(began + (i + len(packet)) / rate - time.monotonic())
            await socket.send(_encode(packet, encoding))
            watch.sent.append(((i + len(packet)) / rate, time.monotonic()))
        watch.done = time.monotonic()
        await socket.send('{"type": "end"}')
    except ConnectionClosed:
        pass  # the reader sees it too, and knows the server's reason


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


def _event(message: dict[str, Any]) -> Partial | Final:
    words: Sequence[Word] = tuple(Word(**word) for word in message["words"])
    common = {"segment": message["segment"], "text": message["text"], "words": words, "tokens": ()}
    if message["type"] == "partial":
        return Partial(**common)
    return Final(**common, start=message["start"], end=message["end"], speech_final=message["speech_final"])
