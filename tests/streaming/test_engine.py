"""A small Zipformer with random weights behind the scheduler: what it says in a batch is what it says alone."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch

from asr.encoders import Chunk, ConformerConfig, ZipformerConfig
from asr.errors import ConfigError
from asr.heads import Emission
from asr.model import Model, ModelConfig
from asr.tokenizer import Tokenizer
from streaming.engine import TorchEngine, warm_up
from streaming.events import Ended, Event, Final, Options
from streaming.scheduler import Scheduler
from streaming.session import run
from tests.streaming.toy_engine import packets, s16le


def model(*, encoder: ConformerConfig | None = None, **options: object) -> Model:
    torch.manual_seed(1)
    encoder_config = encoder or ZipformerConfig(
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
    return Model(ModelConfig(encoder=encoder_config), Tokenizer.train(["abcdefghi jklm"], kind="characters"))


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


def days_later(state: Any, days: int, position: int) -> Any:
    """The state with its counts of frames as after so many days. `position`: frames a second in the encoder's."""
    rates = {"received": 100, "position": position, "frame": 25}
    if isinstance(state, tuple):
        return tuple(days_later(x, days, position) for x in state)
    if isinstance(state, torch.Tensor):
        return state
    parts = {x.name: days_later(getattr(state, x.name), days, position) for x in fields(state)}
    return replace(state, **{k: x + 86_400 * days * rates[k] if k in rates else x for k, x in parts.items()})


@pytest.mark.parametrize(("encoder", "position"), [("zipformer", 50), ("conformer", 25)])
@pytest.mark.parametrize("head", ["transducer", "ctc"])
def test_the_third_day_is_as_exact_as_the_first_second(encoder: str, position: int, head: str) -> None:
    chunk = Chunk(4, 8)
    small = ConformerConfig(dim=32, heads=2, layers=2, chunks=(chunk,))
    days = 3
    made = (model(chunks=(chunk,)) if encoder == "zipformer" else model(encoder=small)).eval()
    data = torch.from_numpy(noise(9.0, 3))[None]
    states, at, said = [made.init_state(1, chunk, head)] * 2, 0, list[list[Emission]]([[], []])
    for i in range(50):
        size = made.samples_first(chunk) if i == 0 else made.samples_next(chunk)
        for j, state in enumerate(states):
            (emissions,), states[j] = made.step(
                data[:, at : at + size], torch.tensor([size]), state, chunk, head
            )
            said[j] += emissions if i > 2 else []
        at += size
        if i == 2:
            states[1] = days_later(states[1], days, position)
    assert len(said[0]) > 1
    assert said[1] == [x._replace(frame=x.frame + 86_400 * days * 25) for x in said[0]]


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
