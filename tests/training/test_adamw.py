from __future__ import annotations

import pytest
import torch

from asr.training.adamw import AdamW
from asr.training.optimizer import NonFiniteGradient


def test_steps_are_those_of_adamw_on_the_cut_gradient() -> None:
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Linear(3, 2) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    first = AdamW(ours.parameters(), 0.1, clip=0.5)
    second = torch.optim.AdamW(theirs.parameters(), 0.1, betas=(0.9, 0.98), weight_decay=1e-3)
    for scale in (10.0, 0.001, 3.0):
        x = scale * torch.randn(5, 3)

        def closure(x: torch.Tensor = x) -> torch.Tensor:
            first.zero_grad()
            loss = ours(x).square().sum()
            loss.backward()
            return loss

        first.step(closure)
        second.zero_grad()
        theirs(x).square().sum().backward()
        norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        second.step()
        assert first.gradient_norm == pytest.approx(float(norm), rel=1e-5)
        assert first.clipped == pytest.approx(min(1.0, 0.5 / float(norm)), rel=1e-4)
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b)


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    layer = torch.nn.Linear(2, 1)
    optimizer = AdamW(layer.parameters(), 0.1)
    before = [p.clone() for p in layer.parameters()]
    (layer(torch.ones(1, 2)) * torch.inf).sum().backward()
    with pytest.raises(NonFiniteGradient):
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, layer.parameters(), strict=True))
    assert not optimizer.state
