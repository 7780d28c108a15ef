"""Streaming equals offline: the promise that everything else rests on, from one layer to the socket.

In float64 the largest error is 1e-9 and in float32 1e-4, with the same tokens: for every encoder, head, chunk size and
packet size; whatever else is in the batch; whatever lies in caches that must not be read; to the last frame.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
from torch import Tensor

import asr
from asr import audio
from asr.audio import SAMPLE_RATE
from asr.dataset.manifest import Manifest
from asr.encoders import FULL_CONTEXT, Chunk, EncoderConfig, build
from asr.heads import Emission
from asr.heads.predictors import PredictorConfig
from asr.model import Model, ModelConfig
from asr.state import map_tree, stack, unstack, where
from models import CHUNKS, ENCODERS, PREDICTORS, small_model
from streaming.client import stream
from streaming.engine import TorchEngine
from streaming.events import Final, Options
from streaming.server import Server, Settings
from streaming.session import run

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
KINDS = sorted(ENCODERS)
SECONDS = 4.3


def assert_same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=TOLERANCE[a.dtype], rtol=0)


def test_no_encoder_is_missing() -> None:
    kinds = {config().kind for config in get_args(EncoderConfig) or (EncoderConfig,)}
    assert kinds == {config.kind for config in ENCODERS.values()}


# ---- the encoder


@pytest.fixture(
    params=[(kind, dtype) for kind in KINDS for dtype in TOLERANCE], ids=lambda p: f"{p[0]}-{p[1]}"[:20]
)
def encoder(request: pytest.FixtureRequest) -> Any:
    kind, dtype = request.param
    torch.manual_seed(0)
    return build(ENCODERS[kind], 80).to(dtype).eval()


def features(encoder: Any, frames: int, *, batch: int = 1, seed: int = 1) -> Tensor:
    x = torch.randn(batch, frames, 80, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x.to(next(encoder.parameters()).dtype)


def steps(
    encoder: Any, x: Tensor, lens: Tensor, chunk: Chunk, *, many: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """The utterances cut as sessions cut them, `many` chunks at once, until the look-ahead has come out."""
    size, position = many * chunk.frames * encoder.subsampling, 0
    while position < int(lens.max()) + encoder.lookahead:
        frames = size + (encoder.lookahead if position == 0 else 0)
        piece = x[:, position : position + frames]
        piece = torch.nn.functional.pad(piece, (0, 0, 0, frames - piece.shape[1]))
        yield piece, (lens - position).clamp(0, frames)
        position += frames


def streamed(
    encoder: Any, x: Tensor, lens: Tensor, chunk: Chunk, *, many: int = 1, state: Any = None
) -> tuple[Tensor, Tensor]:
    state = encoder.init_state(len(x), chunk) if state is None else state
    outputs, total = [], torch.zeros_like(lens)
    for piece, piece_lens in steps(encoder, x, lens, chunk, many=many):
        y, y_lens, state = encoder.step(piece, piece_lens, state, chunk)
        outputs.append(y)
        total = total + y_lens
    return torch.cat(outputs, 1), total


@torch.inference_mode()
@pytest.mark.parametrize("chunk", CHUNKS, ids=str)
@pytest.mark.parametrize("many", [1, 2, 5])
def test_chunks_give_what_the_masked_whole_gives(encoder: Any, chunk: Chunk, many: int) -> None:
    lens = torch.tensor([433, 433 - 77, 100, 9])
    x = features(encoder, 433, batch=4)
    whole, whole_lens = encoder(x, lens, chunk)
    y, y_lens = streamed(encoder, x, lens, chunk, many=many)
    assert y_lens.tolist() == whole_lens.tolist()
    for b, n in enumerate(whole_lens.tolist()):
        assert n > 0
        assert_same(y[b, :n], whole[b, :n])


@torch.inference_mode()
@pytest.mark.parametrize("chunk", CHUNKS, ids=str)
@pytest.mark.parametrize("frames", [140, 141, 144, 145, 149, 153, 157, 160])
def test_the_last_partial_chunk(encoder: Any, chunk: Chunk, frames: int) -> None:
    x, lens = features(encoder, frames), torch.tensor([frames])
    whole, whole_lens = encoder(x, lens, chunk)
    y, y_lens = streamed(encoder, x, lens, chunk)
    assert y_lens.tolist() == whole_lens.tolist()
    assert_same(y[:, : whole.shape[1]], whole)


@torch.inference_mode()
@pytest.mark.parametrize("chunk", [*CHUNKS, FULL_CONTEXT], ids=str)
def test_padding_is_invisible(encoder: Any, chunk: Chunk) -> None:
    x = features(encoder, 300)
    for frames in (9, 57, 130, 213):
        lens = torch.tensor([frames])
        alone, alone_lens = encoder(x[:, :frames], lens, chunk)
        padded = torch.cat([x[:, :frames], torch.full_like(x[:, frames:], 1e3)], 1)
        y, y_lens = encoder(padded, lens, chunk)
        assert y_lens.tolist() == alone_lens.tolist()
        assert_same(y[:, : int(y_lens)], alone[:, : int(y_lens)])


@torch.inference_mode()
def test_streams_of_different_ages_share_a_batch(encoder: Any) -> None:
    chunk = CHUNKS[1]
    size = chunk.frames * encoder.subsampling
    ages = (0, 1, 2, 7)
    xs = [features(encoder, encoder.lookahead + (age + 2) * size, seed=age) for age in ages]
    alone = [streamed(encoder, x, torch.tensor([x.shape[1]]), chunk)[0] for x in xs]
    states, at = [], []
    for age, x in zip(ages, xs, strict=True):
        state, position = encoder.init_state(1, chunk), 0
        for _ in range(age):
            frames = size + (encoder.lookahead if position == 0 else 0)
            _, _, state = encoder.step(
                x[:, position : position + frames], torch.tensor([frames]), state, chunk
            )
            position += frames
        states.append(state)
        at.append(position)
    for turn in range(2):
        pieces = [
            x[:, p : p + size + (encoder.lookahead if p == 0 else 0)] for x, p in zip(xs, at, strict=True)
        ]
        lens = torch.tensor([piece.shape[1] for piece in pieces])
        batch = torch.cat(
            [torch.nn.functional.pad(p, (0, 0, 0, int(lens.max()) - p.shape[1])) for p in pieces]
        )
        y, _, state = encoder.step(batch, lens, stack(states), chunk)
        states, at = unstack(state), [p + int(n) for p, n in zip(at, lens, strict=True)]
        for b, age in enumerate(ages):
            begin = (age + turn) * chunk.frames
            assert_same(y[b], alone[b][0, begin : begin + chunk.frames])


@torch.inference_mode()
def test_an_idle_stream_is_not_disturbed(encoder: Any) -> None:
    chunk = CHUNKS[0]
    x = features(encoder, 200, batch=2)
    (first, second, *_) = steps(encoder, x, torch.tensor([200, 200]), chunk)
    _, _, before = encoder.step(*first, encoder.init_state(2, chunk), chunk)
    _, _, after = encoder.step(*second, before, chunk)
    kept = where(torch.tensor([True, False]), after, before)

    def check(k: Tensor, a: Tensor, b: Tensor) -> Tensor:
        assert torch.equal(k[0], a[0]) and torch.equal(k[1], b[1])
        return k

    map_tree(check, kept, after, before)


@torch.inference_mode()
def test_a_step_changes_no_state_that_it_was_given(encoder: Any) -> None:
    chunk = CHUNKS[0]
    x = features(encoder, 200)
    (first, second, *_) = steps(encoder, x, torch.tensor([200]), chunk)
    _, _, state = encoder.step(*first, encoder.init_state(1, chunk), chunk)
    copy = map_tree(torch.clone, state)
    encoder.step(*second, state, chunk)
    map_tree(lambda a, b: a if torch.equal(a, b) else pytest.fail("a leaf was written to"), state, copy)


REMEMBERED = {"keys", "values", "nonlinear", "values1", "values2", "pending"}
"""The leaves of states that hold nothing before the stream begins; all others begin as zeros."""


def poisoned(state: Any) -> Any:
    """A fresh state in which all that attention could remember, and what waits for its look-ahead, is not a number."""
    if isinstance(state, Tensor):
        return state
    if isinstance(state, tuple):
        return tuple(map(poisoned, state))
    leaves = {field.name: getattr(state, field.name) for field in fields(state)}
    return replace(
        state,
        **{n: torch.full_like(x, torch.nan) if n in REMEMBERED else poisoned(x) for n, x in leaves.items()},
    )


@torch.inference_mode()
@pytest.mark.parametrize("chunk", CHUNKS, ids=str)
def test_caches_from_before_the_stream_are_never_read(encoder: Any, chunk: Chunk) -> None:
    x, lens = features(encoder, 433), torch.tensor([433])
    clean, _ = streamed(encoder, x, lens, chunk)
    dirty, _ = streamed(encoder, x, lens, chunk, state=poisoned(encoder.init_state(1, chunk)))
    assert_same(dirty, clean)


# ---- the heads

HEADS = ("transducer", "ctc", "attention")


def test_no_head_is_missing() -> None:
    chosen = get_type_hints(ModelConfig)["decodes"]
    assert set(HEADS) == {name for kind in get_args(chosen) for name in get_args(kind)}
    assert set(HEADS) == set(small_model().heads)


def test_no_predictor_is_missing() -> None:
    assert {kind().kind for kind in get_args(PredictorConfig)} == set(PREDICTORS)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["ctc", "attention", *PREDICTORS])
@pytest.mark.parametrize("size", [1, 3, 7, 64])
@pytest.mark.parametrize("max_symbols", [1, 3])
def test_heads_give_the_same_tokens_for_any_split(name: str, size: int, max_symbols: int) -> None:
    model = small_model(predictor=name if name in PREDICTORS else "stateless")
    head = model.head("transducer" if name in PREDICTORS else name)
    if name in PREDICTORS:
        head.config = replace(head.config, max_symbols=max_symbols)
    y = 2 * torch.randn(5, 64, model.encoder.dim, generator=torch.Generator().manual_seed(3))
    lens = torch.tensor([64, 63, 31, 1, 0])
    whole = said(head, *head.step(y, lens, head.init_state(5)))
    state, found = head.init_state(5), [[], [], [], [], []]
    for begin in range(0, 64, size):
        new, state = head.step(y[:, begin : begin + size], (lens - begin).clamp(0, size), state)
        state = stack(unstack(state))
        for all_of_it, some in zip(found, new, strict=True):
            all_of_it += some
    found = said(head, found, state)
    assert tokens(found) == tokens(whole)
    assert len(whole[0]) > 10 and not whole[4]
    assert all(
        e.frame < n and e.log_probability <= 0 for es, n in zip(whole, lens.tolist(), strict=True) for e in es
    )


def said(head: Any, found: list[list[Emission]], state: Any) -> list[list[Emission]]:
    """What was emitted, and what the end of the streams adds."""
    return [one + ends[0].emissions for one, ends in zip(found, head.finish(state), strict=True)]


def tokens(streams: list[list[Emission]]) -> list[list[tuple[int, int]]]:
    return [[(e.token, e.frame) for e in emissions] for emissions in streams]


# ---- the model, the session, the socket


def speech(seed: int, seconds: float = SECONDS) -> np.ndarray:
    """Noise whose colour and level change all the time: a random model says many different things to it."""
    rng = np.random.default_rng(seed)
    n = int(seconds * SAMPLE_RATE)
    t = np.arange(n) / SAMPLE_RATE
    level = np.interp(
        t, np.arange(0, seconds + 0.1, 0.1), rng.uniform(0, 0.5, len(np.arange(0, seconds + 0.1, 0.1)))
    )
    tone = np.sin(2 * np.pi * np.cumsum(rng.uniform(100, 3000, n // 800 + 1).repeat(800)[:n]) / SAMPLE_RATE)
    return (level * (tone + 0.3 * rng.standard_normal(n))).clip(-1, 1).astype(np.float32)


def decode(model: Model, samples: np.ndarray, chunk: Chunk, head: str) -> list[Emission]:
    """Offline, masked to chunks: the reference for everything below."""
    with torch.inference_mode():
        x, lens = model.flushed(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
        y, y_lens = model.encode(x, lens, chunk)
        decoder = model.head(head)
        return said(decoder, *decoder.step(y, y_lens, decoder.init_state(1)))[0]


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest) -> Model:
    return small_model(request.param)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("chunk", CHUNKS, ids=str)
def test_the_model_in_steps_gives_what_the_whole_gives(model: Model, chunk: Chunk, head: str) -> None:
    samples = speech(1)
    expected = decode(model, samples, chunk, head)
    assert len(expected) > 10
    transcript = model.transcribe(samples, latency_ms=model.latency_ms(chunk), head=head)
    text = "".join(model.tokenizer.piece(e.token) for e in expected).replace("▁", " ").strip()
    assert transcript.text.split() == text.split()


PACKETS = {"1 sample": 1, "prime": 997, "10 ms": 160, "half a second": 8000, "whole": 1 << 30}


def texts(events: Any) -> list[tuple[str, float]]:
    return [(t.text, round(t.time, 4)) for event in events if isinstance(event, Final) for t in event.tokens]


@pytest.mark.parametrize("packet", PACKETS.values(), ids=PACKETS)
@pytest.mark.parametrize("chunk", CHUNKS[:2], ids=str)
def test_a_session_gives_the_same_for_any_packets(model: Model, chunk: Chunk, packet: int) -> None:
    seconds = 0.9 if packet == 1 else SECONDS
    samples = speech(2, seconds)
    pcm = (samples * 32767).astype("<i2")
    expected = decode(model, pcm.astype(np.float32) / 32768, chunk, "transducer")
    options = Options(latency_ms=model.latency_ms(chunk), head="transducer")
    data = pcm.tobytes()
    packets = (data[i : i + 2 * packet] for i in range(0, len(data), 2 * packet))
    events = list(run(TorchEngine(model), options, packets))
    assert [t for t, _ in texts(events)] == [
        model.tokenizer.piece(e.token).replace("▁", " ") for e in expected
    ]
    assert [s for _, s in texts(events)] == [round(e.frame * model.frame_seconds, 4) for e in expected]


def test_the_socket_gives_the_same_to_all_clients_at_once(model: Model) -> None:
    chunks = [CHUNKS[i % 2] for i in range(8)]
    recordings = [speech(10 + i, 1.5 + 0.31 * i) for i in range(8)]

    async def all_at_once() -> list[list[Any]]:
        async with Server(TorchEngine(model), Settings(port=0)) as server:
            await server.wait_ready()

            async def one(samples: np.ndarray, chunk: Chunk) -> list[Any]:
                events = stream(
                    samples, server.url, realtime=False, latency_ms=model.latency_ms(chunk), encoding="f32le"
                )
                return [event async for event in events]

            return await asyncio.gather(*(one(s, c) for s, c in zip(recordings, chunks, strict=True)))

    for samples, chunk, events in zip(recordings, chunks, asyncio.run(all_at_once()), strict=True):
        alone = run(
            TorchEngine(model),
            Options(latency_ms=model.latency_ms(chunk), encoding="f32le"),
            [samples.tobytes()],
        )
        expected = [event.text for event in alone if isinstance(event, Final)]
        assert [event.text for event in events if isinstance(event, Final)] == expected
        assert expected


# ---- real speech, the embedded model


def letters(texts: Iterable[str]) -> str:
    """All that was said, without spaces: a session may end a segment where the file's text goes on in a word."""
    return "".join(texts).replace(" ", "")


def test_ten_recordings_by_file_by_session_and_by_socket(mini: Path) -> None:
    """The same tokens from `transcribe` in chunked mode, from a session fed primes, and through the socket."""
    model = asr.load(mini.parent / "models" / "mini")
    wanted = (mini / "ten.txt").read_text().split()
    cuts = {cut.id: cut for cut in Manifest([mini / "test.jsonl.gz"])}
    recordings = {name: audio.read(cuts[name].recording.sources[0].source) for name in wanted}
    assert len(recordings) == 10
    latency = model.latencies[0]
    offline = {name: letters(model.transcribe(x, latency_ms=latency).text) for name, x in recordings.items()}

    async def through_the_socket() -> dict[str, str]:
        async with Server(TorchEngine(model), Settings(port=0)) as server:
            await server.wait_ready()

            async def one(samples: np.ndarray) -> str:
                events = stream(samples, server.url, realtime=False, latency_ms=latency)
                return letters([event.text async for event in events if isinstance(event, Final)])

            found = await asyncio.gather(*map(one, recordings.values()))
            return dict(zip(recordings, found, strict=True))

    for name, samples in recordings.items():
        pcm = (samples * 32768).round().clip(-32768, 32767).astype("<i2").tobytes()
        for packet in (2, 2 * 997, 2 * 7919):
            packets = (pcm[i : i + packet] for i in range(0, len(pcm), packet))
            events = run(TorchEngine(model), Options(latency_ms=latency), packets)
            assert letters(event.text for event in events if isinstance(event, Final)) == offline[name], name
    assert asyncio.run(through_the_socket()) == offline
    assert sum(map(len, offline.values())) > 100
