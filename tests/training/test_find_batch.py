from __future__ import annotations

import math

import pytest
import torch

from asr.dataset import DataConfig, SpecAugmentConfig
from asr.dataset.augment import Concatenate, Speed
from asr.errors import DataError
from asr.training.config import ConsistencyConfig, TrainConfig
from asr.training.find_batch import Cost, Shape, Step, find_batch, search, shapes_of
from asr.training.recipe import RecipeConfig, TokenizerConfig
from tests.models import ENCODERS, small_model


def machine(*, at_most: float, knee_at: float = math.inf, quadratic: float = 0.0):
    """A device: 1 GB and a MB a second of speech, no faster from some budget on, and an error at `at_most`."""
    tried = []

    def trying(shapes: list[Shape]) -> Cost | None:
        seconds = max(shape.utterances * shape.seconds for shape in shapes)
        tried.append(seconds)
        used = int(1e9 + 1e6 * seconds + quadratic * seconds**2)
        return None if used > at_most else Cost(used, min(seconds, knee_at))

    return trying, tried


def shapes(budget: float) -> list[Shape]:
    return [Shape(int(budget / 10), 10.0, 50), Shape(int(budget), 1.0, 5)]


@pytest.mark.parametrize("quadratic", [0.0, 2e3])
@pytest.mark.parametrize("gigabytes", [1.2, 1.3, 5.0])
def test_memory_is_used_and_never_overrun(gigabytes, quadratic):
    memory = int(gigabytes * 1e9)
    step, tried = machine(at_most=1e12, quadratic=quadratic)
    found = search(step, shapes, longest=10.0, most=1e9, memory=memory, knee=None)
    used = 1e9 + 1e6 * found.max_duration + quadratic * found.max_duration**2
    assert memory * 0.85 < used <= memory or used - 1e9 > 0.8 * (memory - 1e9)
    assert max(tried) <= 2.2 * found.max_duration


def test_memory_that_runs_out_is_stepped_back_from():
    step, _ = machine(at_most=2e9)
    found = search(step, shapes, longest=10.0, most=1e9, memory=4_000_000_000, knee=None)
    assert 900 <= found.max_duration <= 1000
    assert any(trial.cost is None for trial in found.trials)
    assert "out of memory" in found.to_text()
    assert f"data: {{max_duration: {found.max_duration}}}" in found.to_text()


def test_a_knee_in_speed_and_the_end_of_the_data_are_enough():
    step, _ = machine(at_most=1e12, knee_at=160.0)
    found = search(step, shapes, longest=10.0, most=1e9, memory=10**12, knee=1.05)
    assert found.max_duration == 160
    assert "hardly faster" in found.why
    step, _ = machine(at_most=1e12)
    found = search(step, shapes, longest=10.0, most=75.0, memory=10**12, knee=None)
    assert (found.max_duration, found.why) == (75, "an epoch holds no more")


def test_one_utterance_that_does_not_fit_is_told():
    step, _ = machine(at_most=1e12)
    with pytest.raises(DataError, match=r"an utterance of 10.0 s alone takes more than the 1.00 GB"):
        search(step, shapes, longest=10.0, most=1e9, memory=1_000_000_000, knee=None)


@pytest.mark.parametrize("kind", ENCODERS)
def test_steps_cost_memory_and_time_for_every_encoder(kind):
    model = small_model(kind)
    data = DataConfig(train=(), augment=(SpecAugmentConfig(),))
    consistency = ConsistencyConfig() if model.config.ctc is not None else None
    train = TrainConfig(optimizer="adamw", base_lr=1e-3, consistency=consistency, precision="32")
    step = Step(model, RecipeConfig(model.config, TokenizerConfig(), data, train))
    before = [p.clone() for p in model.parameters()]
    cost = step([Shape(3, 1.0, 4), Shape(1, 2.0, 4)])
    assert cost is not None and cost.bytes > 50e6 and cost.speed > 0
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)), (
        "a step was made"
    )
    step.task.model.encoder.register_forward_hook(lambda *_: torch.empty(1 << 60, dtype=torch.uint8))
    assert step([Shape(3, 1.0, 4)]) is None


def test_shapes_are_those_of_the_data(recipe):
    """Six utterances of 0.4 to 0.8 s, 4 s in all, with five letters a second."""
    model = small_model("conformer")
    augment = (Speed(factors=(0.9, 1.25)), Concatenate(max_seconds=2.0))
    data = DataConfig(train=(recipe.with_name("train.jsonl.gz"),), augment=augment, max_seconds=5.0)
    of, longest, most = shapes_of(RecipeConfig(model.config, TokenizerConfig(), data), model)
    assert (longest, most) == (2.0, pytest.approx(4.0))
    assert of(100.0)[0] == Shape(50, 2.0, 12)
    assert of(100.0)[1] == Shape(277, pytest.approx(0.36), 2)


@pytest.mark.slow
def test_a_recipe_is_measured_and_nothing_is_left(recipe, tmp_path, monkeypatch):
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    found = find_batch(recipe, ["train.precision='32'"])
    assert 1 <= found.max_duration <= 8
    assert found.trials and all(trial.cost for trial in found.trials)
    assert sorted(tmp_path.rglob("*")) == before
