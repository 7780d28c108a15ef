from __future__ import annotations

import math

import pytest

from asr.evaluate.confidence import Bin, Reliability


def test_bins_and_errors_by_hand():
    found = Reliability.of([0.95, 0.95, 0.55, 0.55, 1.0], [True, False, True, False, True])
    assert found is not None
    assert found.bins == (
        Bin(pytest.approx(0.55), 0.5, 2),
        Bin(pytest.approx(2.9 / 3), pytest.approx(2 / 3), 3),
    )
    assert found.error == pytest.approx(0.4 * 0.05 + 0.6 * 0.3)
    assert Reliability.of([], []) is None


def test_normalized_cross_entropy():
    sure = Reliability.of([1.0, 0.0], [True, False])
    fair = Reliability.of([0.5, 0.5], [True, False])
    wrong = Reliability.of([0.25, 0.25, 0.25, 0.25], [True, True, True, False])
    assert sure is not None and fair is not None and wrong is not None
    assert sure.cross_entropy == pytest.approx(1.0, abs=1e-6) and sure.error == 0
    assert fair.cross_entropy == pytest.approx(0.0)
    h = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    assert wrong.cross_entropy == pytest.approx(1 - (-0.75 * math.log(0.25) - 0.25 * math.log(0.75)) / h)
    alone = Reliability.of([0.9], [True])
    assert alone is not None and alone.cross_entropy == 0.0
