"""Steps in several processes: to clients, the same as in one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from asr.errors import ConfigError
from streaming.crew import Crew
from streaming.engines import device_for, load_engines, share
from streaming.events import Ended, Event, Failed, Options
from streaming.mailbox import Letter, Mailbox
from streaming.scheduler import Result, Scheduler
from streaming.server import Server
from streaming.session import run
from tests.streaming.serving import END, START, TALK, WANTED, fetch, finals, serve, talk, until
from tests.streaming.toy_engine import ToyEngine, packets, s16le, silence

OPTIONS = Options(latency_ms=160)
DATA = s16le(TALK)


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@contextmanager
def crew(engine: ToyEngine, heard: list[Result], processes: int = 2) -> Iterator[Crew]:
    found = Crew(Scheduler(engine), processes, tell=lambda tick, _: heard.extend(tick.results))
    found.start()
    try:
        wait(lambda: found.ready or found.failed)
        yield found
    finally:
        found.stop()
        for member in found._members:
            assert not member._process and not any(thread.is_alive() for thread in member._threads)


def events(heard: list[Result], key: str) -> list[Event]:
    return [event for result in heard if result.key == key for event in result.events]


def test_each_session_gets_what_it_gets_alone() -> None:
    heard: list[Result] = []
    with crew(ToyEngine(), heard) as both:
        keys = [str(i) for i in range(10)]
        for key in keys:
            both.open(key, OPTIONS)
        assert [len(member.keys) for member in both._members] == [5, 5]
        for packet in packets(DATA, 6400):
            for key in keys:
                both.push(key, packet)
        for key in keys[1:]:
            both.end(key)
        wait(lambda: sum(isinstance(x, Ended) for result in heard for x in result.events) == 9)
        both.update(keys[0], OPTIONS)
        both.drop(keys[0])
        both.push(keys[0], DATA)  # of a session that is over: passed over
        wanted = list(run(ToyEngine(), OPTIONS, packets(DATA, 6400)))
        assert all(events(heard, key) == wanted for key in keys[1:])
        assert not any(member.keys for member in both._members)
        wait(lambda: not any(member.load and member.load._known for member in both._members))
        assert 0 <= both.load() < 1 <= both.load(streams=10**6)
        assert both.stuck() < 5


def test_a_process_that_dies_takes_only_its_own_sessions_with_it_and_is_replaced() -> None:
    heard: list[Result] = []
    with crew(ToyEngine(), heard) as both:
        for key in "abcd":
            both.open(key, OPTIONS)
            both.push(key, s16le(silence(1)))
        wait(lambda: {result.key for result in heard} == set("abcd"))
        first = both._members[0]._process
        os.kill(first, signal.SIGKILL)
        wait(lambda: all(isinstance(x, Failed) for key in "ac" for x in events(heard, key)[-1:] or [None]))
        both.open("e", OPTIONS)  # at the new one, which is not warm yet
        assert "e" in both._members[0].keys
        for packet in packets(DATA, 6400):
            both.push("e", packet)
        for key in "bde":
            both.end(key)
        wait(lambda: all(isinstance(x, Ended) for key in "bde" for x in events(heard, key)[-1:] or [None]))
        assert events(heard, "e") == list(run(ToyEngine(), OPTIONS, packets(DATA, 6400)))
        wait(lambda: both.ready)
        assert both._members[0]._process != first and not both.failed


def test_a_warm_up_that_fails_is_told() -> None:
    class Broken(ToyEngine):
        def step(self, batch: object) -> object:  # type: ignore[override]
            raise MemoryError

    with crew(Broken(), []) as both:
        assert both.failed and not both.ready
        both.open("a", OPTIONS)  # goes nowhere, and harms nothing
        assert both.load() == 0


def test_a_server_of_two_processes() -> None:
    async def test(server: Server) -> None:
        heard = await asyncio.gather(*(talk(server.url, [START, DATA, END]) for _ in range(4)))
        assert [finals(messages) for messages, *_ in heard] == [WANTED] * 4
        _, text = await fetch(server, "/metrics")
        assert (
            "rill_batch_streams_count" in text and 'rill_sessions_opened_total{protocol="native"} 4.0' in text
        )
        async with connect(server.url) as client:
            await client.send(START)
            await client.send(DATA)
            await until(lambda: any(member.keys for member in server._runner._members))  # type: ignore[union-attr]
            (member,) = [x for x in server._runner._members if x.keys]  # type: ignore[union-attr]
            os.kill(member._process, signal.SIGKILL)
            told = []
            with contextlib.suppress(ConnectionClosed):
                while True:
                    told.append(json.loads(await client.recv()))
            assert (told[-2]["type"], told[-2]["code"], client.close_code) == ("error", "engine", 1011)
        await until(lambda: server._runner.ready)
        assert finals((await talk(server.url, [START, DATA, END]))[0]) == WANTED
        assert (await fetch(server, "/health"))[0] == 200

    serve(test, processes=2)


def test_letters_keep_their_order() -> None:
    """What is posted while others wait goes behind them; what opens or drops a session begins anew."""
    box, later = Mailbox(lambda: 1.0), Options(latency_ms=320)
    box.open("a", OPTIONS)
    box.push("a", b"12")
    box.post({"a": Letter(audio=bytearray(b"34"), since=2.0, changed=later)})
    box.end("a")
    box.push("b", b"56")
    box.drop("b")
    assert box.take(wait=True) == {
        "a": Letter(options=OPTIONS, audio=bytearray(b"1234"), since=1.0, changed=later, ended=True),
        "b": Letter(dropped=True),
    }
    assert box.take(wait=False) == {}
    box.close()
    assert box.take(wait=True) is None


def test_cores_are_shared_out() -> None:
    assert share(1) == (1, 1)
    assert share(2) == (2, 1)
    assert share(17) == (8, 2)
    assert share(6, engine="onnx") == share(6, device="cuda") == (1, 6)
    processes, threads = share(None)
    assert 1 <= processes * threads <= len(os.sched_getaffinity(0))
    with pytest.raises(ConfigError, match="threads is 0; at least 1 is needed"):
        share(0)


def test_a_device_is_chosen_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert device_for(None) == device_for("cpu") == "cpu"
    with pytest.raises(ConfigError, match="'cuda' cannot be had; use cpu"):
        device_for("cuda")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert (device_for(None), device_for(None, engine="onnx"), device_for("cuda:1")) == (
        "cuda",
        "cpu",
        "cuda:1",
    )
    with pytest.raises(ConfigError, match="ONNX Runtime runs on the processor"):
        device_for("cuda", engine="onnx")
    with pytest.raises(ConfigError, match="int8 is there for processors"):
        load_engines([], precision="int8", device="cuda")
