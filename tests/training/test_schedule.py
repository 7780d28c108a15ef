from __future__ import annotations

import pytest

from asr.training.schedule import eden, eden_of_budget, linear, warm_up


def test_values():
    assert warm_up(0, 500) == 0.5
    assert warm_up(250, 500) == 0.75
    assert warm_up(500, 500) == warm_up(1e9, 500) == 1.0
    at = {"lr_batches": 7500.0, "lr_epochs": 3.5, "warmup_batches": 500.0}
    assert eden(0, 0, **at) == 0.5
    assert eden(7500, 0, **at) == pytest.approx(2**-0.25)
    assert eden(7500, 3.5, **at) == pytest.approx(2**-0.5)
    # Far out, the rate falls with the square root of batches and of epochs.
    assert eden(4e6, 3500, **at) / eden(1e6, 3500, **at) == pytest.approx(0.5, rel=1e-3)
    assert eden(1e6, 3500, **at) / eden(1e6, 875, **at) == pytest.approx(0.5, rel=1e-3)


def test_a_budget_of_any_size_has_the_same_curve():
    at = {"lr_share": 0.1, "warmup_batches": 10.0}
    assert eden_of_budget(0, 0.0, **at) == 0.5
    assert eden_of_budget(10, 0.0, **at) == 1.0
    assert eden_of_budget(50, 0.1, **at) == pytest.approx(2**-0.5)
    assert eden_of_budget(50, 1.0, **at) == eden_of_budget(5e6, 1.0, **at) == pytest.approx(0.0995, abs=1e-3)


def test_a_straight_line_to_nothing():
    assert linear(0, 0.0, warmup_batches=10) == 0.5
    assert [linear(50, share, warmup_batches=10) for share in (0.0, 0.25, 1.0)] == [1.0, 0.75, 0.0]
