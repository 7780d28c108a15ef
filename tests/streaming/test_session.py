from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.errors import AudioError, ProtocolError
from streaming.endpoint import Endpointer, Rules
from streaming.events import Ended, Event, Final, Options, Partial
from streaming.fifo import Fifo
from streaming.session import Session, run
from tests.streaming.toy_engine import LOOKAHEAD, ToyEngine, packets, s16le, silence, speech

TALK = np.concatenate(
    [
        silence(0.32),
        speech(1, 2, 3, frames=3),
        silence(1.52),
        speech(7, 4, frames=5),
        silence(0.12),
        speech(5),
    ]
)


def events(engine: ToyEngine, data: bytes, size: int = 3200, **options: object) -> list[Event]:
    return list(run(engine, Options(latency_ms=320, **options), packets(data, size)))  # type: ignore[arg-type]


def finals(found: list[Event]) -> list[Final]:
    return [x for x in found if isinstance(x, Final)]


@pytest.mark.parametrize(("size", "latency_ms"), [(2, 320), (14, 640), (202, 160), (9998, 320), (10**9, 640)])
def test_events_do_not_depend_on_packets(size: int, latency_ms: int) -> None:
    data = s16le(TALK)
    options = Options(latency_ms=latency_ms)
    whole = list(run(ToyEngine(), options, [data]))
    assert list(run(ToyEngine(), options, packets(data, size))) == whole
    assert [x.text for x in finals(whole)] == ["one two three", "seven four five"]


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_events_do_not_depend_on_packets_when_resampled(rate: int) -> None:
    source = (
        np.repeat(TALK, 3)[:: 48_000 // rate]
        if rate != 44_100
        else np.interp(np.arange(int(len(TALK) * rate / 16_000)) * 16_000 / rate, np.arange(len(TALK)), TALK)
    )
    data = s16le(source.astype(np.float32))
    whole = events(ToyEngine(), data, 10**9, sample_rate=rate)
    assert [x.text for x in finals(whole)] == ["one two three", "seven four five"]
    assert events(ToyEngine(), data, 14 * 7, sample_rate=rate) == whole
    assert events(ToyEngine(), data, 2 * 997, sample_rate=rate) == whole
    assert whole[-1] == Ended(pytest.approx(len(TALK) / 16_000, abs=1e-3))


def test_stereo_and_floats() -> None:
    stereo = np.stack([TALK * 2, TALK * 0], axis=1).astype("<f4").tobytes()
    found = events(ToyEngine(), stereo, 808, encoding="f32le", channels=2)
    assert finals(found) == finals(events(ToyEngine(), s16le(TALK)))


def test_the_last_word_is_not_lost_and_ends_inside_the_audio() -> None:
    for extra in range(0, 1300, 37):
        data = s16le(np.concatenate([speech(1, 2), silence(0), speech(3)[: 400 + extra % 240]]))
        final = finals(events(ToyEngine(), data))[-1]
        assert final.text == "one two three"
        assert final.words[-1].end <= len(data) / 32_000


@pytest.mark.parametrize("seconds", [0.01, 0.3, 0.33, 0.5, 1.0, 1.08, 1.1, 1.28])
def test_a_stream_ends_in_one_step_of_no_more_chunks_than_bring_out_its_last_frame(seconds: float) -> None:
    engine, data = ToyEngine(), s16le(silence(seconds))
    session = Session(engine, Options(latency_ms=320))
    chunk, lookahead = 5120, LOOKAHEAD
    session.push(data)
    taken = 0
    while session.ready:
        taken += len(session.take()[0])
        session.accept([], None)
    session.end()
    assert session.ready and session.at_last_step
    taken += len(session.take()[0])
    assert isinstance(session.accept([], None)[-1], Ended) and not session.ready
    needed = len(data) // 2 + engine.flush_samples + lookahead
    assert 0 <= taken - needed < chunk and (taken - lookahead) % chunk == 0


def test_words_have_times_since_the_stream_began() -> None:
    first, second = finals(events(ToyEngine(), s16le(TALK)))
    assert first.words[0].start == pytest.approx(0.32, abs=0.05)
    assert second.words[0].start == pytest.approx(0.32 + 0.36 + 1.52, abs=0.05)
    assert [x.confidence for x in first.words] == [pytest.approx(np.exp(-0.125))] * 3
    starts = [x.start for final in (first, second) for x in final.words]
    assert starts == sorted(starts)
    assert (first.segment, second.segment) == (0, 1)
    assert first.speech_final
    assert second.speech_final


def test_partials_grow_and_may_be_turned_off() -> None:
    found = events(ToyEngine(), s16le(speech(*[1, 2] * 20, frames=2)))
    partials = [x.text for x in found if isinstance(x, Partial)]
    assert len(partials) > 5
    assert all(b.startswith(a) for a, b in pairwise(partials))
    quiet = events(ToyEngine(), s16le(speech(1, 2)), partials=False, words=False)
    assert [type(x) for x in quiet] == [Final, Ended]
    assert quiet[0].words == ()


def test_an_empty_stream_ends_at_once() -> None:
    assert events(ToyEngine(), b"") == [Ended(0.0)]


def test_a_stream_shorter_than_a_frame() -> None:
    assert events(ToyEngine(), s16le(silence(0.001))) == [Ended(0.001)]


# ---- endpointing


def test_tokens_do_not_depend_on_endpointing() -> None:
    levels = np.random.default_rng(1).integers(0, 8, 200)
    data = s16le(speech(*levels, frames=2))
    rules = [
        Rules(silence=s, no_text=n, length=t) for s in (None, 0.1) for n in (None, 0.2) for t in (1.0, 20)
    ]
    texts = {" ".join(x.text for x in finals(events(ToyEngine(), data, endpointing=rule))) for rule in rules}
    assert len(texts) == 1


def test_a_token_equal_to_the_last_of_the_segment_before_is_kept() -> None:
    found = finals(events(ToyEngine(), s16le(np.concatenate([speech(3), silence(2), speech(3)]))))
    assert [x.text for x in found] == ["three", "three"]


def test_length_cuts_between_words() -> None:
    data = s16le(speech(*[7, 0] * 40, frames=2))
    found = finals(events(ToyEngine(), data, endpointing=Rules(length=1.0)))
    assert len(found) > 5
    assert {word.text for final in found for word in final.words} == {"seven"}
    assert sum(len(final.words) for final in found) == 40
    assert [x.speech_final for x in found] == [False] * (len(found) - 1) + [True]
    assert all(x.end - x.start <= 1.2 for x in found)


def test_a_text_without_word_boundaries_is_still_bounded() -> None:
    class Unbroken(ToyEngine):
        def _stream(self, samples: np.ndarray, state: object) -> object:
            emissions, state = super()._stream(samples, state)  # type: ignore[arg-type]
            return [type(x)(token=8, frame=x.frame, log_probability=0.0) for x in emissions], state

    found = finals(events(Unbroken(), s16le(speech(*[1, 2] * 60, frames=2)), endpointing=Rules(length=1.0)))
    assert max(len(x.tokens) for x in found) <= 27
    assert sum(len(x.tokens) for x in found) == 120


def test_rules_by_frame() -> None:
    endpointer = Endpointer(Rules(silence=0.2, no_text=0.4, length=2.0), frame_seconds=0.04)
    assert endpointer.check(9) is None
    assert endpointer.check(10) == "no_text"
    endpointer.emitted(12)
    assert endpointer.check(17) is None
    assert endpointer.check(18) == "silence"
    endpointer.emitted(60)
    assert endpointer.check(61) is None
    assert endpointer.check(62) == "length"
    with pytest.raises(ValueError, match=r"length is 500\.0 s; it must be from 1\.0 to 120\.0"):
        Rules(length=500.0)


def test_a_pause_inside_one_long_step_still_cuts() -> None:
    engine = ToyEngine(latencies=(4000,))
    found = list(run(engine, Options(latency_ms=4000), [s16le(TALK)]))
    assert [x.text for x in finals(found)] == ["one two three", "seven four five"]


# ---- faults and bounds


def test_bad_audio_is_named() -> None:
    session = Session(ToyEngine(), Options(latency_ms=320))
    with pytest.raises(AudioError, match="3 bytes are no whole number of 2-byte samples"):
        session.push(b"abc")
    floats = Session(ToyEngine(), Options(latency_ms=320, encoding="f32le"))
    with pytest.raises(AudioError):
        floats.push(np.array([0.1, np.nan], "<f4").tobytes())
    with pytest.raises(AudioError):
        floats.push(np.array([0.1, 20_000], "<f4").tobytes())
    session.end()
    with pytest.raises(ProtocolError, match="after the end"):
        session.push(b"ab")


def test_memory_does_not_grow() -> None:
    session = Session(ToyEngine(), Options(latency_ms=320), backlog=1.0)
    while session.received < 48_000:
        session.push(bytes(3200))
    with pytest.raises(ProtocolError, match="buffered"):
        session.push(bytes(32_000))
    assert session.received <= 3.5 * 16_000


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=40))
def test_fifo_is_first_in_first_out(steps: list[tuple[int, int]]) -> None:
    fifo, wanted, written = Fifo(100), [], 0
    for count, taken in steps:
        samples = np.arange(written, written + count, dtype=np.float32)
        if len(wanted) + count > 100:
            with pytest.raises(ProtocolError):
                fifo.write(samples)
        else:
            fifo.write(samples)
            wanted += list(samples)
            written += count
        assert list(fifo.read(taken)) == wanted[:taken]
        wanted = wanted[taken:]
        assert len(fifo) == len(wanted)
