"""Confidences fitted to words whose odds are known; the embedded model's, before and after, on the embedded corpus."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import asr
from asr.calibration import Heard
from asr.cli import main
from asr.evaluate import evaluate
from asr.evaluate.calibrate import calibrate, fit_confidence
from tests.training.fakes import FakeModel, batch_of

MINI = "data/models/mini"


def drawn(
    temperature: float, bias: float, tokens: float = 0.0, pace: float = 0.0, count: int = 4000
) -> tuple[list[Heard], list[bool]]:
    generator = np.random.default_rng(0)
    odds = generator.normal(1.0, 2.0, count)
    n, t = generator.integers(1, 7, count), generator.integers(1, 20, count)
    sure = odds / temperature + bias + tokens * np.log(n) + pace * np.log(t / n)
    right = generator.random(count) < 1 / (1 + np.exp(-sure))
    return [Heard(*x) for x in zip(1 / (1 + np.exp(-odds)), n, t, strict=True)], list(right)


@pytest.mark.parametrize(
    "put_in",
    [
        (1.0, 0.0, 0, 0),
        (2.5, 0.0, 0, 0),
        (0.7, 0.0, 0, 0),
        (1.5, -1.0, 0, 0),
        (3.0, 0.8, 0, 0),
        (1.2, 0.5, -1.4, -0.8),
    ],
)
def test_what_was_put_in_comes_out(put_in: tuple[float, float, float, float]) -> None:
    found = fit_confidence(*drawn(*put_in))
    assert found["temperature"] == pytest.approx(put_in[0], rel=0.12)
    others = [found.get(name, 0.0) for name in ("bias", "tokens", "pace")]
    assert others == pytest.approx(put_in[1:], abs=0.15)


def test_words_that_all_are_right_and_confidences_that_say_the_contrary() -> None:
    assert 0 < fit_confidence([Heard(0.9)] * 100, [True] * 100)["temperature"] <= 1
    heard, right = drawn(1.0, 0.0)
    found = fit_confidence(heard, [not one for one in right])
    assert found["temperature"] == pytest.approx(20)  # never turned round


def test_of_few_words_nothing_is_known() -> None:
    assert calibrate(FakeModel(), [batch_of(["abc", "da"])]).config.calibration == ()


@pytest.mark.slow
def test_times_and_confidences_get_better(mini: Path, tmp_path: Path) -> None:
    shutil.copytree(MINI, tmp_path / "model")
    with pytest.raises(SystemExit) as ended:
        main(["calibrate", str(tmp_path / "model"), str(mini / "dev.jsonl.gz")])
    assert ended.value.code == 0
    after = asr.load(tmp_path / "model")
    ways = {(one.head, one.latency_ms) for one in after.config.calibration}
    assert ways == {(head, latency) for head in after.heads for latency in (None, *after.latencies)}
    before = asr.load(MINI)
    assert all((a == b).all() for a, b in zip(before.parameters(), after.parameters(), strict=True))
    for row in evaluate(after, mini / "dev.jsonl.gz", latencies=(None, 450)).rows:
        assert row.confidence is not None and row.plain_confidence is not None
        assert row.confidence.error < row.plain_confidence.error + 0.02
        assert row.confidence.cross_entropy > row.plain_confidence.cross_entropy
        for edge in ("start", "end"):
            assert row.word_times[edge].mean < row.plain_word_times[edge].mean
    after.config = replace(after.config, calibration=())
    assert after.calibration("ctc", after.chunk_for(None)).temperature == 1
