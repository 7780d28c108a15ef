from __future__ import annotations

import pytest
import torch

from asr.encoders.dropout import Dropout
from asr.native import dropout as module
from asr.native.dropout import dropout


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_as_many_as_it_says_and_the_mean_stays(probability: float) -> None:
    torch.manual_seed(0)
    x = torch.full((1000, 301), 2.0)
    y = dropout(x, probability)
    kept = y != 0
    assert abs(float(kept.float().mean()) - (1 - probability)) < 0.005
    torch.testing.assert_close(y[kept].unique(), torch.tensor([2 / (1 - probability)]), atol=0, rtol=1e-4)
    columns = kept.float().mean(0)
    assert columns.std() < 2 * (probability * (1 - probability) / 1000) ** 0.5  # none is preferred


def test_the_gradient_drops_what_was_dropped() -> None:
    torch.manual_seed(0)
    x = torch.randn(7, 9, 11, requires_grad=True)
    y = dropout(x.transpose(0, 2), 0.3)
    y.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.detach() * x.grad, y.detach().transpose(0, 2))
    assert 0 < int((x.grad == 0).sum()) < x.numel()


def test_the_seed_decides() -> None:
    x = torch.ones(100)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(dropout(x, 0.5))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_without_the_library_and_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    assert set(dropout(torch.ones(50, dtype=torch.float64), 0.5).tolist()) == {0.0, 2.0}
    monkeypatch.setattr(module, "available", lambda: False)
    assert set(dropout(torch.ones(50), 0.5).tolist()) == {0.0, 2.0}


def test_the_module() -> None:
    layer, x = Dropout(0.5), torch.ones(1000)
    assert (layer(x) == 0).any()
    assert layer.eval()(x) is x
    assert Dropout(0.0)(x) is x
