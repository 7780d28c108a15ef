from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.dataset.sampler import Joining, Sampler

DURATIONS = np.random.default_rng(7).gamma(4.0, 1.0, size=500).clip(0.5, 18.0)


@settings(max_examples=60, deadline=None)
@given(
    durations=st.lists(st.floats(0.1, 20.0), min_size=1, max_size=80),
    epoch=st.integers(0, 5),
    world_size=st.integers(1, 3),
    jitter=st.floats(0, 0.5),
)
def test_batches_hold_at_most_max_duration(durations, epoch, world_size, jitter):
    durations = np.array(durations)
    for rank in range(world_size):
        sampler = Sampler(
            durations, max_duration=25.0, speeds=(0.9, 1.1), jitter=jitter, rank=rank, world_size=world_size
        )
        plan = sampler.plan(epoch)
        assert len(plan) == len(sampler)
        for batch in plan:
            played = durations[list(batch.indices)] / np.array(batch.speeds)
            assert len(batch.indices) > 0
            assert played.max() * len(played) <= 25.0 + 1e-6


def test_every_utterance_comes_once_per_epoch():
    sampler = Sampler(DURATIONS, max_duration=100.0, speeds=(0.9, 1.0, 1.1))
    for epoch in range(6):
        indices = [i for batch in sampler.plan(epoch) for i in batch.indices]
        assert sorted(indices) == list(range(500))


def test_the_first_epochs_are_plain():
    sampler = Sampler(DURATIONS, max_duration=100.0, speeds=(0.9, 1.1), plain_epochs=2)
    speeds = [{s for batch in sampler.plan(epoch) for s in batch.speeds} for epoch in range(4)]
    assert speeds == [{1.0}, {1.0}, {0.9, 1.1}, {0.9, 1.1}]
    assert {len(sampler.plan(epoch)) for epoch in range(4)} == {len(sampler)}


def test_batches_are_alike_full_and_little_padded():
    sampler = Sampler(DURATIONS, max_duration=100.0)
    padded, real = [], []
    for batch in sampler.plan(3):
        durations = DURATIONS[list(batch.indices)]
        padded.append(len(durations) * durations.max())
        real.append(durations.sum())
    assert 1 - sum(real) / sum(padded) < 0.08
    assert min(padded) > 40.0


def test_the_order_depends_on_seed_and_epoch_alone():
    first = Sampler(DURATIONS, max_duration=100.0, seed=1)
    again = Sampler(DURATIONS, max_duration=100.0, seed=1)
    assert list(first.plan(2)) == list(again.plan(2))
    assert list(first.plan(2)) != list(first.plan(3))
    assert list(first.plan(2)) != list(Sampler(DURATIONS, max_duration=100.0, seed=2).plan(2))
    assert list(first.plan(2).after(3)) == list(first.plan(2))[3:]
    longest_first = [max(DURATIONS[list(batch.indices)]) for batch in first.plan(0)]
    assert longest_first != sorted(longest_first)
    assert longest_first != sorted(longest_first, reverse=True)


def test_processes_share_an_epoch_and_see_like_lengths_together():
    samplers = [Sampler(DURATIONS, max_duration=60.0, rank=rank, world_size=3) for rank in range(3)]
    plans = [sampler.plan(0) for sampler in samplers]
    indices = [i for plan in plans for batch in plan for i in batch.indices]
    assert sorted(indices) == list(range(500))
    for batches in zip(*plans, strict=True):
        longest = [max(DURATIONS[list(batch.indices)]) for batch in batches]
        assert max(longest) < 2.0 * min(longest)


def test_weights_repeat_and_thin_out():
    weights = np.array([2.0] * 100 + [0.25] * 300 + [0.0] * 100)
    sampler = Sampler(DURATIONS, max_duration=60.0, weights=weights)
    seen = np.zeros(500)
    for epoch in range(40):
        once = np.bincount([i for batch in sampler.plan(epoch) for i in batch.indices], minlength=500)
        assert once[400:].sum() == 0
        seen += once
    assert seen[:100] == pytest.approx(80, abs=8)  # an epoch over its number of batches drops a few
    assert seen[100:400].mean() == pytest.approx(10, abs=0.7)


def test_speeds_are_drawn_anew_each_epoch():
    sampler = Sampler(DURATIONS, max_duration=60.0, speeds=(0.9, 1.0, 1.1))
    speeds = [
        {i: s for batch in sampler.plan(epoch) for i, s in zip(batch.indices, batch.speeds, strict=True)}
        for epoch in (0, 1)
    ]
    counts = np.bincount([round(10 * s) for s in speeds[0].values()])[9:]
    assert (counts > 120).all()
    assert 0.2 < np.mean([speeds[0][i] == speeds[1][i] for i in range(500)]) < 0.5


def test_evaluation_goes_from_long_to_short_once_and_unchanged():
    sampler = Sampler(DURATIONS, max_duration=60.0, speeds=(0.9, 1.1), shuffle=False)
    plan = sampler.plan(0)
    assert list(plan) == list(sampler.plan(5))
    indices = [i for batch in plan for i in batch.indices]
    assert sorted(indices) == list(range(500))
    assert (np.diff(DURATIONS[indices]) <= 0).all()
    assert {speed for batch in plan for speed in batch.speeds} == {1.0}


def test_evaluation_shared_by_processes_leaves_nothing_out():
    plans = [
        Sampler(DURATIONS[:11], max_duration=9.0, shuffle=False, rank=rank, world_size=4).plan(0)
        for rank in range(4)
    ]
    assert sorted(i for plan in plans for batch in plan for i in batch.indices) == list(range(11))


@pytest.mark.parametrize("weight", [0.3, 1.0, 1.7, 2.0])
def test_shares_of_corpora_are_exact(weight):
    owner = np.repeat([0, 1, 2], [200, 250, 50])
    weights = np.array([weight, 1.0, 0.06])[owner]
    sampler = Sampler(DURATIONS, max_duration=60.0, weights=weights, owner=owner, seed=5)
    total = np.zeros(500, dtype=int)
    for epoch in range(10):
        copies = sampler._copies(epoch)
        for number, each in enumerate((weight, 1.0, 0.06)):
            assert abs(copies[owner == number].sum() - each * (owner == number).sum()) <= 1
        total += copies
    assert set(total[owner == 0]) <= {int(10 * weight), round(10 * weight)}
    assert set(total[owner == 1]) == {10}
    assert set(total[owner == 2]) == {0, 1}


def test_joined_utterances_stay_together_and_within_their_limit():
    joining = Joining(probability=0.5, max_seconds=12.0, pause=0.2)
    sampler = Sampler(DURATIONS, max_duration=60.0, speeds=(0.9, 1.1), joining=joining, plain_epochs=1)
    assert all(set(batch.sizes) == {1} for batch in sampler.plan(0))
    seen, sizes = [], []
    for batch in sampler.plan(1):
        assert sum(batch.sizes) == len(batch.indices) == len(batch.speeds)
        played = DURATIONS[list(batch.indices)] / np.array(batch.speeds)
        parts = np.split(played, np.cumsum(batch.sizes)[:-1])
        lengths = [part.sum() + 0.2 * (len(part) - 1) for part in parts]
        assert max(lengths) * len(lengths) <= 60.0 + 1e-6
        assert all(
            len(part) == 1 or length <= 12.0 + 1e-9 for part, length in zip(parts, lengths, strict=True)
        )
        seen += batch.indices
        sizes += batch.sizes
    assert sorted(seen) == list(range(500))
    assert 100 < sum(size > 1 for size in sizes) < 250


@pytest.mark.parametrize("world_size", [1, 2])
def test_an_epoch_goes_through_shards_a_few_at_a_time(world_size):
    shards = np.r_[np.arange(400) // 20, np.full(100, -1)]
    orders = []
    for epoch in range(3):
        plans = [
            Sampler(
                DURATIONS,
                max_duration=30.0,
                shards=shards,
                shards_at_once=4,
                rank=rank,
                world_size=world_size,
            ).plan(epoch)
            for rank in range(world_size)
        ]
        steps = [
            [i for batch in step for i in batch.indices]
            for step in zip(*(list(p) for p in plans), strict=True)
        ]
        assert sorted(i for step in steps for i in step) == list(range(500))
        uses = {s: [n for n, step in enumerate(steps) if s in shards[step]] for s in range(20)}
        for number in range(len(steps)):  # shards that were begun and are not done yet
            assert sum(used[0] <= number <= used[-1] for used in uses.values()) <= 4 * world_size
        outside = np.array([n for n, step in enumerate(steps) for i in step if shards[i] < 0])
        assert abs(outside.mean() / len(steps) - 0.5) < 0.1, (
            "files outside of shards are spread over the epoch"
        )
        orders.append(sorted(range(20), key=lambda s: uses[s][0]))
    assert orders[0] != orders[1] != orders[2]
