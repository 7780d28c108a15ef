"""A stream that goes on over broken connections: every word, once."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.errors import ProtocolError
from streaming.client import Summary, stream
from streaming.endpoint import Rules
from streaming.events import Event, Final, Options
from streaming.protocols import Limits, Offer
from streaming.protocols.native import Native
from streaming.resume import Tape, Told
from streaming.scheduler import Scheduler
from streaming.server import Server, Settings
from tests.streaming.toy_engine import ToyEngine, s16le, silence, speech

RATE = 16_000
OFFER = Offer(
    server="x",
    latencies=(160, 320),
    heads=("ctc",),
    default_latency=160,
    default_head="ctc",
    limits=Limits(),
)


def talk(words: list[tuple[int, float]]) -> np.ndarray:
    """Words with a pause after each."""
    return np.concatenate(
        [part for word, pause in words for part in (speech(word, frames=4), silence(pause))]
    )


def messages(samples: np.ndarray, rules: Rules, *, ended: bool) -> list[dict[str, object]]:
    """What a server says to a client that sends these samples, and ends or not."""
    native = Native(OFFER)
    native.receive('{"type": "start"}')
    options = Options(latency_ms=160, head="ctc", endpointing=rules)
    scheduler, events = Scheduler(ToyEngine(), backlog=1000.0), list[Event]()
    scheduler.open("a", options)
    scheduler.push("a", s16le(samples), 0.0)
    if ended:
        scheduler.end("a", 0.0)
    while scheduler.ready:
        events += [event for result in scheduler.tick(0.0).results for event in result.events]
    said = map(json.loads, native.send(events))
    return [message for message in said if message["type"] != "partial"]


WORDS = st.lists(st.tuples(st.integers(1, 5), st.sampled_from([0.04, 0.2, 0.6, 1.6, 3.0, 7.0])), min_size=1, max_size=14)  # fmt: skip


@given(
    WORDS,
    st.lists(st.tuples(st.floats(0.1, 30.0), st.booleans()), max_size=3),
    st.sampled_from([Rules(), Rules(silence=0.3, no_text=0.4), Rules(silence=None, length=1.0)]),
)
def test_wherever_it_breaks_every_word_comes_once(
    words: list[tuple[int, float]], breaks: list[tuple[float, bool]], rules: Rules
) -> None:
    """A server that vanishes has said nothing of what it had not settled; one that drains says its finals."""
    samples, told, heard = talk(words), Told(RATE), list[Final]()

    def hear(session: list[dict[str, object]], *, complete: bool) -> None:
        for message in session:
            if message["type"] == "final":
                heard.extend(filter(None, [told.final(message)]))
            elif message["type"] == "settled":
                told.silence(message)
        heard.extend(filter(None, [told.end(complete=complete)]))

    for seconds, drained in breaks:
        begin = told.begin()
        part = samples[begin : begin + round(seconds * RATE)]
        hear(messages(part, rules, ended=drained), complete=False)
    hear(messages(samples[told.begin() :], rules, ended=True), complete=True)
    names = dict(enumerate("one two three four five".split(), 1))
    assert " ".join(x.text for x in heard).split() == [names[word] for word, _ in words]
    assert [x.segment for x in heard] == list(range(len(heard)))
    times = [time for final in heard for word in final.words for time in (word.start, word.end)]
    assert times == sorted(times)


def test_the_tape_is_bounded() -> None:
    async def test() -> None:
        tape = Tape(2, limit=100)
        await tape.append(bytes(range(200)))
        with pytest.raises(TimeoutError):  # nothing has been read: it waits
            await asyncio.wait_for(tape.append(bytes(2)), 0.01)
        assert await tape.read(60) == bytes(range(120))
        await tape.append(bytes(80))
        assert (tape.start, tape.position, tape.end) == (40, 60, 140)
        tape.rewind(50)
        tape.forget(70)  # not beyond what has been read
        assert (tape.start, tape.position) == (50, 50)
        assert await tape.read(10) == bytes(range(100, 120))
        with pytest.raises(ProtocolError, match="more than 100 samples"):
            tape.rewind(49)
        await tape.close()
        assert len(await tape.read(1000)) == 160 and await tape.read(10) == b""

    asyncio.run(test())


def test_words_off_and_confidence_off() -> None:
    told = Told(RATE, words=False)
    told.begin()
    message = {
        "type": "final",
        "text": "one",
        "words": [{"text": "one", "start": 0.1, "end": 0.2}],
        "start": 0.1,
        "end": 0.2,
        "speech_final": True,
        "settled": 8000,
        "resume": 0,
    }
    event = told.final(message)
    assert event is not None and (event.text, event.words, event.settled) == ("one", (), 0.5)
    assert told.needed == 0 and told.begin() == 0
    assert told.final(message) is None  # heard again


SPOKEN = [(1, 0.2), (2, 1.6), (3, 0.1), (4, 0.1), (5, 1.7), (1, 0.2), (2, 1.6), (3, 0.4), (5, 0.1)]
TEXT = "one two three four five one two three five"


async def listen(source: object, url: str, **options: object) -> tuple[list[Final], Summary]:
    events = [x async for x in stream(source, url, packet_seconds=0.02, **options)]  # type: ignore[arg-type]
    assert isinstance(events[-1], Summary)
    return [x for x in events if isinstance(x, Final)], events[-1]


@pytest.mark.parametrize("how", ["abort", "drain", "length"])
def test_over_sockets(how: str, unused_port: int) -> None:
    """A server vanishes, drains, or cuts sessions for their length; another takes its port."""

    async def servers(ready: asyncio.Event) -> None:
        limits = Limits(session_seconds=6.0 if how == "length" else 1000.0, backlog_seconds=3.0)
        settings = Settings(port=unused_port, limits=limits)
        while True:
            async with Server(ToyEngine(), settings) as server:
                ready.set()
                await asyncio.sleep(0.5 if how != "length" else 60)
                if how == "abort":
                    for connection in list(server._connections.values()):
                        connection.abort()
                    server._connections.clear()

    async def test() -> None:
        async with asyncio.timeout(60):
            running = asyncio.create_task(servers(ready := asyncio.Event()))
            await ready.wait()
            url = f"ws://127.0.0.1:{unused_port}/v1/stream"
            finals, summary = await listen(_live(talk(SPOKEN), pace=4.0), url)
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
        assert summary.text == TEXT == " ".join(x.text for x in finals)
        assert [x.segment for x in finals] == list(range(len(finals)))
        assert summary.duration == pytest.approx(len(talk(SPOKEN)) / RATE)

    asyncio.run(test())


async def _live(samples: np.ndarray, *, pace: float) -> AsyncIterator[np.ndarray]:
    for i in range(0, len(samples), 320):
        await asyncio.sleep(0.02 / pace)
        yield samples[i : i + 320]


def test_what_a_source_raises_comes_out() -> None:
    async def broken() -> AsyncIterator[np.ndarray]:
        yield talk(SPOKEN[:2])
        raise OSError("the microphone is gone")

    async def test() -> None:
        async with Server(ToyEngine(), Settings(port=0)) as server:
            with pytest.raises(OSError, match="microphone is gone"):
                await listen(broken(), server.url)

    asyncio.run(test())


def test_a_new_session_begins_at_a_chunk_and_with_context() -> None:
    said = messages(talk([(1, 7.0), (2, 1.6), (3, 3.0)]), Rules(), ended=False)
    context, chunk = (2.0 + 8 * 0.04) * RATE, 0.16 * RATE
    assert len(said) > 3
    for message in said:
        settled, resume = message["settled"], message["resume"]
        assert isinstance(settled, int) and isinstance(resume, int)
        assert resume % chunk == 0
        assert resume == 0 or context <= settled - resume < context + chunk
    told = Told(RATE)
    told.begin()
    told.silence({"settled": 10 * RATE, "resume": 7 * RATE})
    told.silence({"settled": 9 * RATE, "resume": 6 * RATE})
    assert (told.settled, told.needed, told.begin()) == (10 * RATE, 7 * RATE, 7 * RATE)
    told.silence({"settled": 5 * RATE, "resume": 2 * RATE})
    assert (told.settled, told.needed) == (12 * RATE, 9 * RATE)
