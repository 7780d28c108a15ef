"""One request that brings a whole file: read, decoded in a thread, recognised in a session like any other."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from websockets.datastructures import Headers

from asr.audio import SAMPLE_RATE
from asr.errors import AudioError
from streaming import http
from streaming.codecs import file_blocks
from streaming.door import Door, Sent
from streaming.events import Ended, Event, Failed, Final
from streaming.protocols import Limits, Offer
from streaming.protocols.openai_rest import Deltas, Form, RestError, answer, error_body, parse_form

if TYPE_CHECKING:
    from websockets.http11 import Request, Response

    from streaming.crew import Crew
    from streaming.metrics import Metrics
    from streaming.runner import Runner
    from streaming.scheduler import Result

__all__ = ["Upload"]

_PIECE = SAMPLE_RATE // 2
_UNREAD_BYTES = 1_048_576
_SLOWEST = 8000  # bytes a second of a request


class Upload:
    """Lives in the event loop, from the request's head to the last byte of its answer."""

    def __init__(
        self, door: Door, *, key: str, runner: Runner | Crew, limits: Limits, offer: Offer, metrics: Metrics
    ) -> None:
        self.key = key
        self._door = door
        self._runner = runner
        self._limits = limits
        self._offer = offer
        self._metrics = metrics
        self._events: asyncio.Queue[Event] = asyncio.Queue()  # bounded by the backlog of audio
        self._position = 0.0
        self._room = asyncio.Event()
        self._error: RestError | None = None

    async def run(self, request: Request) -> Response:
        try:
            form = await self._form(request)
            return await self._transcribe(form)
        except RestError as error:
            self._metrics.errors.labels("request").inc()
            return http.reply(HTTPStatus(error.status), error_body(error), kind="application/json")
        finally:
            self._runner.drop(self.key)

    # ---- from the engine and the server

    def deliver(self, result: Result) -> None:
        self._position = result.position
        for event in result.events:
            self._events.put_nowait(event)
        self._room.set()

    def wind_up(self, code: int, kind: str, reason: str) -> None:
        """The answer becomes an error: half a transcript is none."""
        self._error = RestError(reason, code=kind, status=503)
        self._events.put_nowait(Failed(kind, reason))
        self._room.set()

    def abort(self) -> None:
        self._door.transport.abort()

    # ---- the request

    async def _form(self, request: Request) -> Form:
        door, limits = self._door, self._limits
        assert door.body is not None
        if door.length is None:
            raise RestError("the request states no Content-Length", status=411)
        if door.length > limits.upload_bytes:
            raise RestError(f"a request may have {limits.upload_bytes} bytes", status=413, param="file")
        if request.headers.get("Expect", "").lower() == "100-continue":
            door.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body, seconds = bytearray(), limits.idle_seconds + door.length / _SLOWEST
        try:
            async with asyncio.timeout(seconds):
                while len(body) < door.length:
                    async with asyncio.timeout(limits.idle_seconds):
                        data = await door.body.read(door.length - len(body))
                    if not data:
                        raise RestError("the request broke off")
                    body += data
        except TimeoutError as error:
            text = f"nothing came for {limits.idle_seconds:g} s, or not all in {seconds:.0f} s"
            raise RestError(text, status=408) from error
        return parse_form(request.headers.get("Content-Type", ""), bytes(body))

    # ---- the answer

    async def _transcribe(self, form: Form) -> Response:
        offer = self._offer.named(form.model, form.language)
        options = offer.options(
            encoding="f32le", latency_ms=offer.latencies[-1], partials=form.stream, phrases=form.phrases
        )
        self._runner.open(self.key, options)
        self._metrics.opened.labels("openai-rest").inc()
        sender = asyncio.create_task(self._send_audio(form.file))
        try:
            return await (self._stream() if form.stream else self._whole(form))
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)

    async def _send_audio(self, data: bytes) -> None:
        pushed = 0.0
        try:
            with tempfile.TemporaryDirectory(prefix="rill-") as folder:
                path = Path(folder, "upload")
                await asyncio.to_thread(path.write_bytes, data)
                blocks = file_blocks(path)
                while (block := await asyncio.to_thread(_next, blocks)) is not None:
                    for start in range(0, len(block), _PIECE):
                        piece = block[start : start + _PIECE].astype("<f4")
                        while pushed - self._position > self._limits.backlog_seconds:
                            self._room.clear()
                            await self._room.wait()
                        self._runner.push(self.key, piece.tobytes())
                        pushed += len(piece) / SAMPLE_RATE
                        self._metrics.audio.inc(len(piece) / SAMPLE_RATE)
                    if pushed > self._limits.session_seconds:
                        raise RestError(f"a file may last {self._limits.session_seconds:g} s", param="file")
            self._runner.end(self.key)
        except (AudioError, RestError) as error:
            # The path is ours and tells the client nothing.
            message = str(error).replace(str(path), "file") if isinstance(error, AudioError) else str(error)
            self._events.put_nowait(Failed("invalid_audio", message))
        except OSError:
            self._error = RestError("the server cannot store the file", status=500)
            self._events.put_nowait(Failed("storage", ""))

    async def _finals(self, finals: list[Final]) -> float:
        """Collect until the end, whose time is returned."""
        while True:
            event = await self._events.get()
            match event:
                case Final():
                    finals.append(event)
                case Ended():
                    return event.duration
                case Failed():
                    raise self._failure(event)

    def _failure(self, event: Failed) -> RestError:
        if self._error is not None:
            return self._error
        if event.code == "engine":
            return RestError(event.message, code="engine", status=500)
        return RestError(event.message, param="file", code=event.code)

    async def _whole(self, form: Form) -> Response:
        finals: list[Final] = []
        duration = await self._finals(finals)
        kind, body = answer(form, finals, duration)
        return http.reply(HTTPStatus.OK, body, kind=kind)

    async def _stream(self) -> Response:
        finals: list[Final] = []
        deltas, begun = Deltas(), False
        try:
            while True:
                event = await self._events.get()
                if isinstance(event, Failed):
                    raise self._failure(event)
                if not begun:
                    self._write(_SSE_HEAD)
                    begun = True
                if isinstance(event, Ended):
                    self._write(deltas.done(finals))
                    break
                self._write(deltas.send([event]))
                if isinstance(event, Final):
                    finals.append(event)
        except RestError as error:
            if not begun:
                raise
            self._write(deltas.failed(error))
        return Sent(200, "OK", Headers())

    def _write(self, text: str) -> None:
        transport = self._door.transport
        if transport.get_write_buffer_size() > _UNREAD_BYTES:
            raise RestError("events were left unread")
        transport.write(text.encode())


_SSE_HEAD = (
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    "Cache-Control: no-cache\r\nConnection: close\r\n\r\n"
)


def _next(blocks: Iterator[np.ndarray]) -> np.ndarray | None:
    with contextlib.suppress(StopIteration):
        return next(blocks)
    return None
