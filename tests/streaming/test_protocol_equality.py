"""Every recording through every protocol, in batches of many: the tokens of `asr transcribe` in the same chunk mode."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import asr
from asr import audio
from asr.dataset.manifest import Manifest
from asr.model import Model
from streaming.engine import TorchEngine
from streaming.protocols import Limits
from streaming.routes import ROUTES
from streaming.server import Server, Settings
from tests.streaming import wire

PACKETS = {"prime": 997, "one second": 16_000}
TOGETHER = 40  # streams at a time
LATENCY = 450
# Files, as fast as they go, are no reason to refuse others, nor are messages of a sample.
LIMITS = Limits(sessions=1000, lag_seconds=None, messages_per_second=1e6)


@pytest.fixture(scope="module")
def model() -> Model:
    return asr.load(Path(__file__).parents[2] / "data" / "models" / "mini")


@pytest.fixture(scope="module")
def recordings() -> dict[str, bytes]:
    """Ten, as 16-bit samples."""
    mini = Path(__file__).parents[2] / "data" / "mini"
    cuts = {cut.id: cut for cut in Manifest([mini / "test.jsonl.gz"])}
    wanted = (mini / "ten.txt").read_text().split()
    read = {name: audio.read(cuts[name].recording.sources[0].source) for name in wanted}
    return {name: (x * 32768).round().clip(-32768, 32767).astype("<i2").tobytes() for name, x in read.items()}


def letters(text: str) -> str:
    """All that was said, without spaces: a segment may end where the file's text goes on in a word."""
    return text.replace(" ", "").strip()


def offline(model: Model, pcm: bytes, latency: int) -> str:
    samples = np.frombuffer(pcm, "<i2").astype(np.float32) / 32768
    return letters(model.transcribe(samples, latency_ms=latency).text)


def through(model: Model, jobs: list[Callable[[str], Coroutine[Any, Any, str]]]) -> list[str]:
    async def body() -> list[str]:
        settings = Settings(port=0, default_latency_ms=LATENCY, limits=LIMITS)
        async with asyncio.timeout(600), Server(TorchEngine(model), settings) as server:
            url, places = server.url.removesuffix("/v1/stream"), asyncio.Semaphore(TOGETHER)

            async def one(job: Callable[[str], Coroutine[Any, Any, str]]) -> str:
                async with places:
                    return await job(url)

            return list(await asyncio.gather(*map(one, jobs)))

    return [letters(text) for text in asyncio.run(body())]


def test_no_protocol_is_missing() -> None:
    assert {name.partition("-")[0] for name in wire.CLIENTS} == {
        name.partition("-")[0] for name, _ in ROUTES.values()
    }


def test_recordings_through_every_protocol(model: Model, recordings: dict[str, bytes]) -> None:
    cases = [
        (name, protocol, packet)
        for name in recordings
        for protocol in wire.CLIENTS
        for packet in PACKETS.values()
    ]
    jobs = [
        lambda url, name=name, protocol=protocol, packet=packet: wire.CLIENTS[protocol](
            url, recordings[name], packet
        )
        for name, protocol, packet in cases
    ]
    assert len(jobs) >= 200
    wanted = {
        (name, latency): offline(model, pcm, latency)
        for name, pcm in recordings.items()
        for latency in (LATENCY, model.latencies[-1])
    }
    assert sum(map(len, wanted.values())) > 100
    for (name, protocol, packet), text in zip(cases, through(model, jobs), strict=True):
        latency = model.latencies[-1] if protocol in wire.OFFLINE else LATENCY
        assert text == wanted[name, latency], (name, protocol, packet)


def test_one_sample_a_message(model: Model, recordings: dict[str, bytes]) -> None:
    pcm = recordings["goforward"][2 * 8000 : 2 * 14_000]
    jobs = [lambda url, client=client: client(url, pcm, 1) for client in wire.CLIENTS.values()]
    texts = dict(zip(wire.CLIENTS, through(model, jobs), strict=True))
    for protocol, text in texts.items():
        latency = model.latencies[-1] if protocol in wire.OFFLINE else LATENCY
        assert text == offline(model, pcm, latency), protocol
    assert any(texts.values())
