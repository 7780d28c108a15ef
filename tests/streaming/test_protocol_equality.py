"""Every recording through every protocol, in batches of many: the tokens of `asr transcribe` in the same chunk mode."""

from __future__ import annotations

import asyncio
import os
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
    """All of the embedded test set, as 16-bit samples; the ten of `ten.txt` first."""
    mini = Path(__file__).parents[2] / "data" / "mini"
    cuts = {cut.id: cut for cut in Manifest([mini / "test.jsonl.gz"])}
    names = dict.fromkeys([*(mini / "ten.txt").read_text().split(), *cuts])
    read = {name: audio.read(cuts[name].recording.sources[0].source) for name in names}
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
        async with asyncio.timeout(3600), Server(TorchEngine(model), settings) as server:
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


Case = tuple[str, str, int]
"""A recording, a protocol, and the samples of a packet."""


def check(model: Model, recordings: dict[str, bytes], cases: list[Case]) -> None:
    def job(case: Case) -> Callable[[str], Coroutine[Any, Any, str]]:
        name, protocol, packet = case
        return lambda url: wire.CLIENTS[protocol](url, recordings[name], packet)

    latencies = {
        protocol: model.latencies[-1] if protocol in wire.OFFLINE else LATENCY for protocol in wire.CLIENTS
    }
    wanted = {
        (name, latency): offline(model, recordings[name], latency)
        for name, latency in {(name, latencies[protocol]) for name, protocol, _ in cases}
    }
    for case, text in zip(cases, through(model, [job(case) for case in cases]), strict=True):
        assert text == wanted[case[0], latencies[case[1]]], case
    assert sum(map(len, wanted.values())) > 100


def test_recordings_through_every_protocol(model: Model, recordings: dict[str, bytes]) -> None:
    """Two of the ten with each packet, so that each protocol hears each packet and many recordings are heard."""
    names = list(recordings)[:10]
    pairs = [(protocol, packet) for packet in PACKETS.values() for protocol in wire.CLIENTS]
    check(
        model,
        recordings,
        [
            (names[(2 * i + j) % 10], protocol, packet)
            for i, (protocol, packet) in enumerate(pairs)
            for j in (0, 1)
        ],
    )


@pytest.mark.slow
def test_every_recording_through_every_protocol(model: Model, recordings: dict[str, bytes]) -> None:
    """With one packet or the other. Where RILL_EVERY_PACKET is set, with both, and sample by sample."""
    sizes, pairs = (
        list(PACKETS.values()),
        [(x, y) for x in enumerate(recordings) for y in enumerate(wire.CLIENTS)],
    )
    every = [1, *sizes] if "RILL_EVERY_PACKET" in os.environ else None
    cases = [
        (name, protocol, packet)
        for (i, name), (j, protocol) in pairs
        for packet in every or [sizes[(i + j) % len(sizes)]]
    ]
    assert len(cases) >= 200
    check(model, recordings, cases)


def with_others(recordings: dict[str, bytes], cases: list[Case]) -> list[Case]:
    return cases + [(name, "native", 997) for name in list(recordings)[:10] for _ in range(3)]


def test_one_sample_a_message(model: Model, recordings: dict[str, bytes]) -> None:
    """Parts of different recordings, each protocol another, while 30 others send whole recordings."""
    parts = dict(recordings)
    cases: list[Case] = []
    for i, protocol in enumerate(wire.CLIENTS):
        name = list(recordings)[i % 10]
        middle = len(recordings[name]) // 4 * 2
        parts[protocol] = recordings[name][middle : middle + 2 * 5000]
        cases.append((protocol, protocol, 1))
    check(model, parts, with_others(recordings, cases))


@pytest.mark.slow
def test_whole_recordings_of_one_sample_a_message(model: Model, recordings: dict[str, bytes]) -> None:
    """The shortest, each protocol another; the slowest, which waits for each answer, the shortest of all."""
    shortest = sorted(recordings, key=lambda name: len(recordings[name]))
    protocols = sorted(wire.CLIENTS, key=lambda protocol: protocol != "vosk")
    cases = [(name, protocol, 1) for name, protocol in zip(shortest, protocols, strict=False)]
    assert {protocol for _, protocol, _ in cases} == set(wire.CLIENTS)
    check(model, recordings, with_others(recordings, cases))
