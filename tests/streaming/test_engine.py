"""A small Zipformer with random weights behind the scheduler: what it says in a batch is what it says alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from asr.encoders import Chunk, ZipformerConfig
from asr.errors import ConfigError
from asr.model import Model, ModelConfig
from asr.tokenizer import Tokenizer
from streaming.engine import TorchEngine, warm_up
from streaming.events import Ended, Event, Final, Options
from streaming.scheduler import Scheduler
from streaming.session import run
from tests.streaming.toy_engine import packets, s16le


def model(**options: object) -> Model:
    torch.manual_seed(1)
    encoder = ZipformerConfig(
        layers=(1, 1),
        dims=(32, 48),
        feed_forward_dims=(48, 64),
        unmasked_dims=(24, 32),
        downsampling=(1, 2),
        heads=(2, 2),
        kernels=(7, 7),
        query_dim=8,
        **options,  # type: ignore[arg-type]
    )
    return Model(ModelConfig(encoder=encoder), Tokenizer.train(["abcdefghi jklm"], kind="characters"))


@pytest.fixture(scope="module")
def engine() -> TorchEngine:
    return TorchEngine(model(chunks=(Chunk(4, 8), Chunk(8, 16))))


def noise(seconds: float, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    loud = np.repeat(generator.random(round(seconds * 20) + 1), 800)[: round(seconds * 16_000)]
    return (generator.standard_normal(len(loud)) * loud * 0.3).clip(-1, 0.99).astype(np.float32)


def said(events: list[Event]) -> list[tuple[str, float]]:
    return [
        (token.text, token.time) for event in events if isinstance(event, Final) for token in event.tokens
    ]


@pytest.mark.parametrize("head", ["transducer", "ctc"])
def test_batched_streams_say_what_they_say_alone_and_offline(engine: TorchEngine, head: str) -> None:
    scheduler, wanted, heard, todo = Scheduler(engine), {}, {}, {}
    for i in range(6):
        options = Options(latency_ms=engine.latencies[i % 2], head=head)
        data = s16le(noise(1.0 + 0.37 * i, i))
        wanted[i] = said(list(run(engine, options, packets(data, 2 * 1499))))
        samples = np.frombuffer(data, "<i2").astype(np.float32) / 32768
        offline = engine.model.transcribe(samples, latency_ms=options.latency_ms, head=head)
        # A pause may end a segment between two letters: the words of noise are no words.
        assert "".join(text for text, _ in wanted[i]).split() == offline.text.split()
        scheduler.open(i, options)
        heard[i], todo[i] = [], packets(data, 2 * (1601 + 700 * i))
    now = 0.0
    while len(scheduler):
        now += 0.1
        for i, rest in todo.items():
            if rest:
                scheduler.push(i, rest.pop(0), now)
                if not rest:
                    scheduler.end(i, now)
        while scheduler.ready:
            for result in scheduler.tick(now).results:
                heard[result.key] += result.events
    assert sum(map(len, wanted.values())) > 20
    assert {i: said(events) for i, events in heard.items()} == wanted
    assert all(isinstance(events[-1], Ended) for events in heard.values())


def test_warm_up_and_offline_models(engine: TorchEngine) -> None:
    steps = list(warm_up(engine, batches=(1, 2)))
    assert {streams for streams, *_ in steps} == {1, 2}
    assert {(round(audio / streams, 2), seconds > 0) for streams, audio, seconds in steps} == {
        (0.16, True),
        (0.32, True),
    }
    with pytest.raises(ConfigError, match="offline model"):
        TorchEngine(model(causal=False))
    with pytest.raises(ConfigError, match="threads is 0"):
        TorchEngine(engine.model, threads=0)
