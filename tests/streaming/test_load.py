from __future__ import annotations

import numpy as np
import pytest

from streaming.load import Kind, Load

KIND = Kind("m", "320", 0.32)


def learnt(fixed: float, slope: float, *, lag: float = 0.5, noise: float = 0.0) -> Load:
    """After steps of 320 ms of audio a stream in batches of many sizes."""
    load, generator = Load(lag=lag, max_batch=64), np.random.default_rng(0)
    for _ in range(300):
        streams = int(generator.integers(1, 33))
        seconds = (fixed + slope * 0.32 * streams) * (1 + noise * generator.standard_normal())
        load.stepped("m", streams, 0.32 * streams, seconds)
    return load


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_the_most_streams_that_come_in_time_are_known_before_they_come(noise: float) -> None:
    """10 ms a step and 20 ms a second of audio: 0.01 / 0.32 + 0.02 n is 90 % at n = 43."""
    load = learnt(0.01, 0.02, noise=noise)
    load.streams({KIND: 3})
    assert load(0.0) < 0.2
    most = next(n for n in range(1, 100) if load(0.0, streams=n + 1) > 1)
    assert most == pytest.approx(43, abs=6 if noise else 1)


def test_what_cannot_share_a_step_costs_more() -> None:
    load = learnt(0.05, 0.01)
    load.streams({KIND: 20})
    together = load(0.0)
    load.streams({Kind("m", i, 0.32): 2 for i in range(10)})
    assert load(0.0) > 4 * together


def test_batches_of_one_size_cost_what_their_audio_does() -> None:
    load = Load(lag=0.5, max_batch=64)
    for _ in range(20):
        load.stepped("m", 1, 0.32, 0.08)
    load.streams({})
    assert load(0.0, streams=3) < 1 < load(0.0, streams=4)


def test_each_model_has_costs_of_its_own() -> None:
    load = learnt(0.01, 0.01)
    for streams in (1, 8) * 40:
        load.stepped("slow", streams, 0.32 * streams, 0.01 + 0.32 * streams * 0.2)
    load.streams({KIND: 10})
    assert load(0.0) < 0.2
    load.streams({KIND: 8, Kind("slow", "320", 0.32): 2})
    assert 0.4 < load(0.0) < 1 < load(0.0, streams=13)


def test_waits_count_and_are_forgotten() -> None:
    load = learnt(0.001, 0.001)
    load.streams({KIND: 2})
    load.waited(0.1, 0.0)
    assert load(0.0) < 0.2
    for i in range(40):
        load.waited(2.0, 1 + 0.05 * i)
    assert load(3.0) > 1
    assert load(30.0) < 0.1


def test_without_steps_there_is_no_load() -> None:
    load = Load(lag=0.5, max_batch=64)
    load.streams({KIND: 5})
    assert load(0.0, streams=100) == 0
