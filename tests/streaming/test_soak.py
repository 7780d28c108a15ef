"""Memory stays flat: the small sister of tools/bench/soak.py, in this process."""

from __future__ import annotations

import asyncio
import gc
import os
import random
from pathlib import Path

import numpy as np
import pytest
from websockets.asyncio.client import connect

import asr
from asr import audio
from streaming.door import Door
from streaming.engine import TorchEngine
from streaming.events import Ended, Final, Options
from streaming.scheduler import Scheduler
from streaming.server import Server, Settings
from tests.streaming.toy_engine import ToyEngine, packets, s16le

ROOT = Path(__file__).parents[2]


def resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="module")
def data() -> bytes:
    files = sorted((ROOT / "data" / "mini" / "audio").rglob("*.*"))[:20]
    return s16le(np.concatenate([audio.read(path) for path in files]) * 0.99)


def flat(sizes: list[int]) -> bool:
    base = sizes[len(sizes) // 5]
    return max(abs(size / base - 1) for size in sizes[len(sizes) // 5 :]) < 0.02


@pytest.mark.slow
def test_a_session_of_ten_minutes_and_hundreds_of_short_ones(data: bytes) -> None:
    engine = TorchEngine(asr.load(ROOT / "data" / "models" / "mini"), threads=1)
    scheduler, sizes, words = Scheduler(engine), list[int](), 0
    options = Options(latency_ms=engine.latencies[-1], partials=False)
    scheduler.open("long", options)
    while (seconds := 10 * len(sizes)) < 600:
        for packet in packets((data * 2)[:320_000], 32_000):
            scheduler.push("long", packet, float(seconds))
            while scheduler.ready:
                for result in scheduler.tick(float(seconds)).results:
                    words += sum(len(x.words) for x in result.events if isinstance(x, Final))
        sizes.append(resident())
    assert words > 50 and flat(sizes)

    sizes, generator = [], random.Random(0)
    for i in range(200):
        options = Options(latency_ms=generator.choice(engine.latencies), head=generator.choice(engine.heads))
        start = 2 * generator.randrange(len(data) // 4)
        scheduler.open(i, options)
        scheduler.push(i, data[start : start + 32_000], 0.0)
        if i % 3:  # others vanish
            scheduler.end(i, 0.0)
        ended = False
        while scheduler.ready:
            ended |= any(isinstance(x, Ended) for r in scheduler.tick(0.0).results for x in r.events)
        assert ended == bool(i % 3)
        scheduler.drop(i)
        if i % 5 == 0:
            sizes.append(resident())
    assert flat(sizes) and len(scheduler) == 1


def test_connections_that_are_over_do_not_lie_about() -> None:
    """They are cycles of objects, which only a look for garbage finds; Python's own is put off here."""

    async def test() -> int:
        async with Server(ToyEngine(), Settings(port=0)) as server:
            await server.wait_ready()
            for _ in range(60):
                async with connect(server.url, compression=None) as client:
                    await client.send('{"type": "start"}')
                    await client.send('{"type": "end"}')
                    async for _ in client:
                        pass
            return sum(type(x) is Door for x in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        assert asyncio.run(test()) <= 25
    finally:
        gc.enable()
