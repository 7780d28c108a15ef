"""What clients and machines do to a server, and what it must survive. All of it on the loopback."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from websockets.asyncio.client import connect

from streaming import door
from streaming.client import stream_file
from streaming.events import Ended, Event, Final, Options
from streaming.lobby import Lobby
from streaming.log import JsonLines
from streaming.protocols import Limits
from streaming.runner import Runner
from streaming.scheduler import Result, Scheduler
from streaming.server import Server
from tests.streaming.serving import END, START, TALK, WANTED, fetch, finals, serve, talk, until
from tests.streaming.toy_engine import ToyEngine, packets, s16le, speech

HANDSHAKE = (
    b"GET /v1/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
MASK = b"\0\0\0\0"


async def still_works(server: Server) -> None:
    assert finals((await talk(server.url, [START, s16le(TALK), END]))[0]) == WANTED
    assert (await fetch(server, "/health"))[0] == 200


async def opened(server: Server) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A websocket by hand, behind its hello."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(HANDSHAKE)
    assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    return reader, writer


async def rest(reader: asyncio.StreamReader) -> bytes:
    with contextlib.suppress(ConnectionError):
        return await reader.read()
    return b""


def memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# ---- on the wire


def test_a_message_announced_with_2_gib_is_refused_before_it_comes() -> None:
    async def test(server: Server) -> None:
        reader, writer = await opened(server)
        before = memory()
        writer.write(b"\x82\xff" + (1 << 31).to_bytes(8, "big") + MASK + bytes(1000))
        answer = await rest(reader)
        assert (1009).to_bytes(2, "big") in answer
        assert memory() - before < 50_000_000
        writer.close()
        await until(lambda: not server._connections)
        assert 'closed_total{reason="message_bytes"} 1.0' in (await fetch(server, "/metrics"))[1]
        await still_works(server)

    serve(test)


def test_a_message_in_frames_of_one_byte_is_one_message() -> None:
    async def test(server: Server) -> None:
        reader, writer = await opened(server)
        message = b'{"type": "strat"}'
        for i, byte in enumerate(message):
            first, last = i == 0, i == len(message) - 1
            head = (0x80 if last else 0) | (0x01 if first else 0)
            writer.write(bytes([head, 0x81]) + MASK + bytes([byte]))
        await reader.readuntil(b'did you mean \\"start\\"?')
        writer.close()

    serve(test)


def test_samples_of_one_byte_each_come_one_by_one() -> None:
    data = ((TALK[:24_000] * 128).round() + 128).astype(np.uint8).tobytes()

    async def test(server: Server) -> None:
        start = '{"type": "start", "encoding": "u8"}'
        heard, code, _ = await talk(server.url, [start, *packets(data, 1), END])
        assert (finals(heard), code) == (["one two three"], 1000)

    serve(test, limits=Limits(messages_per_second=1e6))


def test_a_client_of_too_many_messages_is_read_slowly_and_loses_nothing() -> None:
    async def test(server: Server) -> None:
        begin = time.monotonic()
        heard, code, _ = await talk(server.url, [START, *packets(s16le(TALK), 400), END])
        assert (finals(heard), code) == (WANTED, 1000)
        messages = 2 + len(TALK) // 200
        assert time.monotonic() - begin > (messages - 10 * 25) / 25 - 0.1

    serve(test, limits=Limits(messages_per_second=25))


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
        b"\0" * 5000,
        b"GET / HTTP/9\r\n\r\n",
        b"POST /x HTTP/1.1\r\n" + b"a: b\r\n" * 4000,
    ],
)
def test_what_is_no_request_is_cut(garbage: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "_OPEN_SECONDS", 0.6)

    async def test(server: Server) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(garbage)
        await rest(reader)
        writer.close()
        await still_works(server)
        await until(lambda: len(server._lobby) == 0)

    serve(test)


def test_handshakes_that_never_end_are_cut_and_keep_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "_OPEN_SECONDS", 0.6)

    async def test(server: Server) -> None:
        server._lobby._of_an_address = 20  # the very ones that new doors enter
        slow = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(20)]
        for _, writer in slow:
            writer.write(HANDSHAKE[:40])
        await until(lambda: len(server._lobby) == 20)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        assert b"503" in await reader.readline()
        writer.close()
        assert [await rest(reader) for reader, _ in slow] == [b""] * 20
        assert len(server._lobby) == 0
        await still_works(server)
        for _, writer in slow:
            writer.close()

    serve(test)


def test_the_lobby_has_room_for_other_addresses() -> None:
    lobby = Lobby(3, 2)
    assert [lobby.enter("a") for _ in range(3)] == [True, True, False]
    assert lobby.enter("b") and not lobby.enter("c")
    lobby.leave("a")
    assert lobby.enter("c") and len(lobby) == 3
    for address in "abc":
        lobby.leave(address)
    assert len(lobby) == 0 and not lobby._waiting


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_thousands_of_connections_are_refused_cleanly(count: int) -> None:
    async def refused(server: Server) -> bool:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(HANDSHAKE)
        answer = await rest(reader)
        writer.close()
        return answer.startswith(b"HTTP/1.1 503 ") and b"Retry-After: 5" in answer

    async def test(server: Server) -> None:
        async with connect(server.url) as client:
            await client.send(START)
            await client.send(s16le(TALK))
            files = len(os.listdir("/proc/self/fd"))
            for _ in range(0, count, 50):
                assert all(await asyncio.gather(*(refused(server) for _ in range(50))))
            await until(lambda: len(os.listdir("/proc/self/fd")) <= files + 5)
            await client.send(END)
            assert finals([json.loads(x) async for x in client]) == WANTED
        assert f'rill_refused_total{{reason="sessions"}} {count:.1f}' in (await fetch(server, "/metrics"))[1]

    serve(test, seconds=300, limits=Limits(sessions=1))


# ---- the machine


FULL_DISK = """
import sys
from streaming.log import set_up
from streaming.server import Settings, run
from tests.streaming.toy_engine import ToyEngine
set_up(verbose=True, text=True)
run(ToyEngine(poison=6), Settings(port=0), started=lambda server: print(server.url, flush=True))
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_for_logs_harms_no_stream() -> None:
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    with open("/dev/full", "w") as full:
        process = subprocess.Popen(
            [sys.executable, "-c", FULL_DISK],
            stdout=subprocess.PIPE,
            stderr=full,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert [stream_file(TALK, url, realtime=False).text for _ in range(3)] == [" ".join(WANTED)] * 3
        process.terminate()
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    logger, handler = logging.getLogger("streaming"), logging.StreamHandler(io.StringIO())
    handler.setFormatter(JsonLines())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler.stream
    logger.setLevel(logging.NOTSET)
    logger.removeHandler(handler)


@pytest.mark.parametrize("text", [False, True])
def test_the_log_is_json_without_audio_and_tokens_and_has_text_if_asked(
    log: io.StringIO, monkeypatch: pytest.MonkeyPatch, text: bool
) -> None:
    monkeypatch.setattr(logging.getLogger("streaming.texts"), "disabled", not text)

    async def test(server: Server) -> None:
        for levels in (TALK, speech(1, 6, frames=20)):
            await talk(server.url + "?token=secret-7", [START, s16le(levels), END])
        await until(lambda: not server._connections)

    serve(test, ToyEngine(poison=6), tokens=("secret-7",))
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    told = [x["text"] for x in lines if x["event"] == "text"]
    assert told == (WANTED if text else [])
    events = [x["event"] for x in lines if x["event"] != "text" and not x["event"].startswith("session ")]
    assert events == ["listening", *["opened", "closed"] * 2, "draining", "stopped"]
    closed = [x for x in lines if x["event"] == "closed"]
    assert [x["reason"] for x in closed] == ["ended", "engine"] and closed[0]["audio_seconds"] > 2
    (failed,) = [x for x in lines if x["level"] == "error"]
    assert "poisoned" in failed["error"]
    assert "secret" not in log.getvalue() and ("three" in log.getvalue()) == text


def test_a_clock_that_jumps_changes_no_word() -> None:
    """Forward by days, as after a machine slept, and back."""
    times, heard = iter([0.0, 86_400.0, 5.0, 4.0, 1e9, 0.0] * 10_000), list[Result]()
    runner = Runner(
        Scheduler(ToyEngine()), tell=lambda tick, _: heard.extend(tick.results), clock=lambda: next(times)
    )
    runner.start()
    for key in "ab":
        runner.open(key, Options(latency_ms=160))
        for packet in packets(s16le(TALK), 3200):
            runner.push(key, packet)
        runner.end(key)
    deadline = time.monotonic() + 20
    while sum(isinstance(x, Ended) for result in heard for x in result.events) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    runner.stop()
    for key in "ab":
        found: list[Event] = [x for result in heard if result.key == key for x in result.events]
        assert [x.text for x in found if isinstance(x, Final)] == WANTED
    assert all(result.lag >= 0 for result in heard)


def test_a_wall_clock_that_jumps_ends_no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(server: Server) -> None:
        async with connect(server.url) as client:
            await client.send(START)
            for packet, wall in zip(packets(s16le(TALK), 8000), [1e9, 3e9, 0.0] * 10, strict=False):
                monkeypatch.setattr(time, "time", lambda wall=wall: wall)
                await client.send(packet)
            await client.send(END)
            heard = [json.loads(x) async for x in client]
        assert (finals(heard), heard[-1]["code"]) == (WANTED, "ended")

    serve(test)
