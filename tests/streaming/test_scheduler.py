from __future__ import annotations

import numpy as np
import pytest

from streaming.events import Ended, Event, Failed, Final, Options
from streaming.scheduler import Result, Scheduler
from streaming.session import run
from tests.streaming.toy_engine import ToyEngine, packets, s16le, silence, speech


def drain(scheduler: Scheduler, now: float = 0.0) -> list[Result]:
    results = []
    while scheduler.ready:
        results += scheduler.tick(now).results
    return results


def events(results: list[Result], key: str) -> list[Event]:
    return [event for result in results if result.key == key for event in result.events]


def test_streams_of_all_ages_and_latencies_get_what_they_get_alone() -> None:
    engine, generator = ToyEngine(), np.random.default_rng(0)
    scheduler = Scheduler(engine, max_batch=5)
    todo: dict[str, list[bytes]] = {}
    wanted: dict[str, list[Event]] = {}
    for i in range(12):
        levels = generator.integers(0, 8, 20 + 10 * i)
        data = s16le(np.concatenate([speech(*levels, frames=2), silence(0.01 * i)]))
        options = Options(latency_ms=engine.latencies[i % 3])
        todo[f"s{i}"] = packets(data, 2 * int(generator.integers(1, 5000)))
        wanted[f"s{i}"] = list(run(ToyEngine(), options, [data]))
        if i < 6:
            scheduler.open(f"s{i}", options)
    results, now = [], 0.0
    while todo:
        now += 0.01
        for key in list(todo):
            if now < 0.3 and int(key[1:]) >= 6:
                continue  # these come later, when the others are well under way
            if int(key[1:]) >= 6 and len(todo[key]) and now == pytest.approx(0.3):
                scheduler.open(key, Options(latency_ms=engine.latencies[int(key[1:]) % 3]))
            scheduler.push(key, todo[key].pop(0), now)
            if not todo[key]:
                scheduler.end(key, now)
                del todo[key]
        while scheduler.ready:
            results += scheduler.tick(now).results
    for key, expected in wanted.items():
        assert events(results, key) == expected
    assert max(engine.batches) > 1
    assert len(scheduler) == 0


def test_only_like_steps_share_a_batch() -> None:
    engine = ToyEngine()
    scheduler = Scheduler(engine)
    for key, latency, head in (
        ("a", 160, "ctc"),
        ("b", 160, "ctc"),
        ("c", 320, "ctc"),
        ("d", 160, "transducer"),
    ):
        scheduler.open(key, Options(latency_ms=latency, head=head))
        scheduler.push(key, s16le(speech(1, frames=20)), 0.0)
    for now in (1.0, 2.0, 3.0):
        scheduler.tick(now)
    assert engine.batches == [2, 1, 1]
    assert len(set(engine.groups)) == 3


def test_the_longest_waiting_go_first_and_none_starves() -> None:
    engine = ToyEngine()
    scheduler = Scheduler(engine, max_batch=1)
    for key in ("file", "live"):
        scheduler.open(key, Options(latency_ms=160))
    scheduler.push("file", s16le(silence(8)), 0.0)
    order = [scheduler.tick(0.1 * i).results[0].key for i in range(3)]
    scheduler.push("live", s16le(silence(0.4)), 0.35)
    order += [scheduler.tick(0.4 + 0.1 * i).results[0].key for i in range(3)]
    assert order == ["file", "file", "file", "file", "live", "file"]


def test_who_has_ended_goes_first_but_not_before_those_that_have_waited_much_longer() -> None:
    scheduler = Scheduler(ToyEngine(), max_batch=1)
    for key in ("old", "new", "ended"):
        scheduler.open(key, Options(latency_ms=160))
    scheduler.push("old", s16le(silence(0.4)), 0.0)
    scheduler.push("new", s16le(silence(0.4)), 0.3)
    scheduler.push("ended", s16le(silence(0.1)), 0.35)
    scheduler.end("ended", 0.35)
    order = [scheduler.tick(0.4).results[0].key for _ in range(3)]
    assert order == ["old", "ended", "new"]


def test_one_faulty_stream_does_not_harm_the_others() -> None:
    engine = ToyEngine(poison=6)
    scheduler = Scheduler(engine)
    data = s16le(speech(1, 2, 3, frames=5))
    for key, audio in (("good", data), ("bad", s16le(speech(1, 6, frames=5))), ("fine", data)):
        scheduler.open(key, Options(latency_ms=320))
        scheduler.push(key, audio, 0.0)
        scheduler.end(key, 0.0)
    results = drain(scheduler)
    assert isinstance(events(results, "bad")[-1], Failed)
    assert events(results, "bad")[-1].code == "engine"  # type: ignore[union-attr]
    for key in ("good", "fine"):
        assert events(results, key) == list(run(ToyEngine(), Options(latency_ms=320), [data]))
    scheduler.push("bad", data, 1.0)  # what it still sends is passed over
    assert not scheduler.ready


def test_bad_audio_fails_its_own_stream() -> None:
    scheduler = Scheduler(ToyEngine())
    scheduler.open("nan", Options(latency_ms=160, encoding="f32le"))
    scheduler.push("nan", np.array([np.nan], "<f4").tobytes(), 0.0)
    (failed,) = events(drain(scheduler), "nan")
    assert isinstance(failed, Failed)
    assert failed.code == "bad_audio"


def test_an_option_the_engine_refuses_fails_its_own_stream() -> None:
    class Refusing(ToyEngine):
        def init_state(self, chunk: object, head: str | None, search: object) -> object:  # type: ignore[override]
            raise MemoryError

    scheduler = Scheduler(Refusing())
    scheduler.open("a", Options(latency_ms=160))
    assert isinstance(events(drain(scheduler), "a")[-1], Failed)


def test_lag_is_the_age_of_the_audio_that_a_step_completed() -> None:
    scheduler = Scheduler(ToyEngine())
    scheduler.open("a", Options(latency_ms=320))
    for i in range(10):
        scheduler.push("a", s16le(silence(0.1)), 10 + 0.1 * i)
    # The first step needs 320 + 130 ms: what completed it came at 10.4 s.
    tick = scheduler.tick(10.9)
    assert tick.results[0].lag == pytest.approx(0.5, abs=0.02)
    assert tick.later(0.25).results[0].lag == pytest.approx(0.75, abs=0.02)
    assert tick.waited == pytest.approx(0.5, abs=0.02)


def test_several_models_share_one_thread_and_no_step() -> None:
    engines = {"en": ToyEngine(), "de": ToyEngine(latencies=(320, 640))}
    scheduler = Scheduler(engines)
    for key, model in (("a", "en"), ("b", "de"), ("c", "de"), ("d", None)):
        scheduler.open(key, Options(latency_ms=320, model=model))
        scheduler.push(key, s16le(speech(1, 2, frames=20)), 0.0)
        scheduler.end(key, 0.0)
    assert sorted(scheduler.kinds().values()) == [2, 2]
    found = drain(scheduler)
    wanted = list(run(ToyEngine(), Options(latency_ms=320), [s16le(speech(1, 2, frames=20))]))
    assert all(events(found, key) == wanted for key in "abcd")
    assert set(engines["en"].batches) == set(engines["de"].batches) == {2}
    scheduler.open("e", Options(latency_ms=160, model="fr"))
    assert isinstance(events(drain(scheduler), "e")[-1], Failed)


def test_a_dropped_stream_is_forgotten() -> None:
    scheduler = Scheduler(ToyEngine())
    scheduler.open("a", Options(latency_ms=160))
    scheduler.push("a", s16le(speech(1, frames=20)), 0.0)
    scheduler.drop("a")
    assert not scheduler.ready
    assert len(scheduler) == 0


def test_a_long_stream_in_bounded_memory() -> None:
    scheduler = Scheduler(ToyEngine(latencies=(1280,)))
    scheduler.open("a", Options(latency_ms=1280))
    slot, data, said = scheduler._slots["a"], s16le(speech(*[1, 2, 0, 7] * 5, frames=2)), 0
    for i in range(200):  # 320 s
        scheduler.push("a", data, 1.6 * i)
        said += sum(len(x.words) for x in events(drain(scheduler, 1.6 * i), "a") if isinstance(x, Final))
        assert len(slot.session._segment._emissions) < 300
        assert len(slot.marks) < 1000
    scheduler.end("a", 320.0)
    last = events(drain(scheduler, 320.0), "a")
    assert isinstance(last[-1], Ended)
    assert said + sum(len(x.words) for x in last if isinstance(x, Final)) == 200 * 15
