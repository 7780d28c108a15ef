"""What `asr train --diagnose` says of models that are well and of models that are not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from asr.cli import main
from asr.training import diagnose as module
from asr.training.diagnose import Diagnosis, Part, diagnose


def test_a_model_that_is_well(recipe: Path) -> None:
    found = diagnose(recipe, batches=2)
    names = [part.name for part in found.parts]
    assert "encoder.stacks.1.blocks.0" in names and "heads.transducer.output" in names
    assert len(found.losses) == 2 and all(0 < loss < 100 for loss in found.losses)
    assert 0 <= found.padding < 0.5 and 0 < found.loading < 1
    for part in found.parts:
        assert part.rms is None or part.rms > 0, part
        assert part.size >= 0 and part.gradient, part
    assert not any("not finite" in part.complaint for part in found.parts)


def test_a_part_that_does_not_learn_and_units_that_are_dead(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build = module.build

    def spoiled(*arguments: object, **options: object) -> nn.Module:
        model = build(*arguments, **options)
        with torch.no_grad():
            model.heads["ctc"].output.weight[: model.tokenizer.size // 2] = 0
        for parameter in model.heads["transducer"].output.parameters():
            parameter.requires_grad_(False)
        return model

    monkeypatch.setattr(module, "build", spoiled)
    said = {part.name: part.complaint for part in diagnose(recipe, batches=2).parts}
    assert said["heads.transducer.output"] == "no gradient: it does not learn"
    assert said["heads.ctc.output"].endswith("% of its units are dead")
    with pytest.raises(SystemExit):
        main(["train", str(recipe), "--diagnose"])
    assert "waiting for data" in capsys.readouterr().out


def test_slow_data_and_much_padding_are_told_with_what_to_do() -> None:
    assert Diagnosis((), loading=0.05, padding=0.1, losses=(2.0, 1.0)).advice == []
    slow = Diagnosis((), loading=0.45, padding=0.35, losses=(2.0, 1.0))
    for part in (
        "waiting for data 45 % of the time",
        "padding 35 %",
        "raise data.workers",
        "raise data.max_duration",
    ):
        assert part in str(slow.table().caption)


def test_what_is_not_finite() -> None:
    well = Part("x", rms=1.0, largest=2.0, dead=0.0, gradient=1.0, size=1.0)
    assert well.complaint == ""
    assert Part("x", float("nan"), 2.0, 0.0, 1.0, 1.0).complaint == "values that are not finite"
    assert Part("x", 1.0, 2.0, 0.0, float("inf"), 1.0).complaint == "a gradient that is not finite"
