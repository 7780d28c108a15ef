from __future__ import annotations

import pytest
import torch
from torch import nn

from asr.training.average import RunningAverage, span_average


def test_a_span_is_the_mean_over_its_batches():
    torch.manual_seed(0)
    model = nn.Linear(5, 3)
    average = RunningAverage(model)
    history, kept = [], {}
    for batch in range(1, 101):
        with torch.no_grad():
            model.weight += 0.1 * torch.randn_like(model.weight)
        history.append(model.weight.detach().double().clone())
        average.update(model, batch)
        if batch in (40, 100):
            kept[batch] = {name: mean.clone() for name, mean in average.mean.items()}
    torch.testing.assert_close(average.mean["weight"], torch.stack(history).mean(0))
    span = span_average(kept[40], 40, kept[100], 100)
    torch.testing.assert_close(span["weight"], torch.stack(history[40:]).mean(0))
    whole = span_average({k: torch.zeros_like(v) for k, v in kept[40].items()}, 0, kept[100], 100)
    torch.testing.assert_close(whole["weight"], kept[100]["weight"])
    with pytest.raises(ValueError, match="no batch lies after batch 100 and up to batch 100"):
        span_average(kept[100], 100, kept[100], 100)


def test_every_tenth_batch_stands_for_ten():
    model = nn.Linear(1, 1)
    average = RunningAverage(model)
    for batch, value in ((10, 1.0), (20, 2.0), (35, 4.0)):
        nn.init.constant_(model.weight, value)
        average.update(model, batch)
    assert average.mean["weight"].item() == pytest.approx((10 * 1 + 10 * 2 + 15 * 4) / 35)
