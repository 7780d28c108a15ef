from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from asr.training.optimizer import NonFiniteGradient, ScaledAdam

LR, BETA1, BETA2, EPS = 0.045, 0.9, 0.98, 1e-8


class Reference:
    """ScaledAdam one parameter and one formula at a time, in float64, as the paper's section 4 states it."""

    def __init__(self, parameters: list[Tensor], *, clipping_scale: float | None = 2.0, period: int = 100):
        self.p = [p.detach().double().clone() for p in parameters]
        self.delta = [torch.zeros_like(p) for p in self.p]
        self.v = [torch.zeros_like(p) for p in self.p]
        self.rms = [p.square().mean().sqrt() for p in self.p]
        self.scale_v = [torch.zeros((), dtype=torch.float64) for _ in self.p]
        self.scale_gradients: list[list[Tensor]] = [[] for _ in self.p]
        self.norms: dict[int, float] = {}
        self.threshold = math.inf
        self.clipping_scale, self.period = clipping_scale, period
        self.t = 0

    def step(self, gradients: list[Tensor], lr: float) -> None:
        gradients = [g.double() for g in gradients]
        norm = math.sqrt(
            sum(
                float((g * (1.0 if g.numel() == 1 else r)).square().sum())
                for g, r in zip(gradients, self.rms, strict=True)
            )
        )
        if self.clipping_scale is not None and self.t > 0:
            self.norms[self.t] = norm
            if self.t in (10, 20, 40) or self.t % self.period == 0:
                window = sorted(self.norms[t] for t in range(max(1, self.t - self.period + 1), self.t + 1))
                self.threshold = self.clipping_scale * window[len(window) // 2]
            gradients = [g * min(1.0, self.threshold / norm) for g in gradients]
        for i, (p, g) in enumerate(zip(self.p, gradients, strict=True)):
            self.delta[i] *= BETA1
            self.v[i] = BETA2 * self.v[i] + (1 - BETA2) * g * g
            direction = g / ((self.v[i] / (1 - BETA2 ** (self.t + 1))).sqrt() + EPS)
            if p.numel() == 1:
                p.clamp_(-10.0, 10.0)
                self.delta[i] -= (1 - BETA1) * 0.1 * lr * direction
            else:
                self.scale_gradients[i].append((p * g).sum())
                if self.t % 4 == 3:
                    self.rms[i] = p.square().mean().sqrt()
                    self.delta[i] += (1 - BETA1) * p * self.growth(i, lr)
                self.delta[i] -= (1 - BETA1) * lr * self.rms[i].clamp(min=1e-5) * direction
            p += self.delta[i]
        self.t += 1

    def growth(self, i: int, lr: float) -> Tensor:
        found = torch.stack(self.scale_gradients[i])
        self.scale_gradients[i] = []
        beta = BETA2**4
        self.scale_v[i] = beta * self.scale_v[i] + (1 - beta) * found.square().mean()
        corrected = math.sqrt(1 - beta ** ((self.t + 1) // 4))
        step = -0.1 * lr * corrected * found.sum() / (self.scale_v[i].sqrt() + EPS)
        if self.rms[i] < 1e-5:
            return torch.zeros(())
        return torch.tensor(-0.1 * lr * 4) if self.rms[i] > 3.0 else step


SHAPES = [(), (1,), (7,), (7,), (3, 5), (3, 5), (5, 3), (40, 1000), (2, 3, 4)]


def parameters(seed: int = 0) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    made = [torch.nn.Parameter(0.3 * torch.randn(shape, generator=generator)) for shape in SHAPES]
    made[2].data.mul_(1e-6)  # below the least rms
    made[4].data.mul_(20.0)  # above the greatest
    made[1].data.fill_(10.5)  # beyond the bound of scalars
    return made


def gradients(step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1000 + step)
    loud = 30.0 if step % 37 == 36 else 1.0  # to be clipped
    return [loud * torch.randn(shape, generator=generator) for shape in SHAPES]


@pytest.mark.parametrize(("steps", "period"), [(60, 100), (130, 25)])
def test_it_is_the_formula(steps: int, period: int):
    ours = parameters()
    optimizer = ScaledAdam(ours, LR, clipping_update_period=period)
    reference = Reference(ours, period=period)
    clipped = 0
    for t in range(steps):
        optimizer.param_groups[0]["lr"] = LR * (1 - t / 200)
        for p, g in zip(ours, gradients(t), strict=True):
            p.grad = g.clone()
        optimizer.step()
        reference.step(gradients(t), LR * (1 - t / 200))
        clipped += optimizer.clipped < 1
    assert clipped >= 1
    for p, expected in zip(ours, reference.p, strict=True):
        torch.testing.assert_close(p.detach().double(), expected, rtol=2e-4, atol=2e-6)


def test_no_gradient_counts_as_zero_and_clipping_can_be_off():
    ours = parameters()
    optimizer = ScaledAdam(ours, LR, clipping_scale=None)
    reference = Reference(ours, clipping_scale=None)
    for t in range(9):
        found = gradients(t)
        for i, p in enumerate(ours):
            p.grad = None if i == 5 else found[i].clone()
        found[5] = torch.zeros(SHAPES[5])
        optimizer.step()
        reference.step(found, LR)
    assert optimizer.clipped == 1.0
    for p, expected in zip(ours, reference.p, strict=True):
        torch.testing.assert_close(p.detach().double(), expected, rtol=2e-4, atol=2e-6)


def test_a_saved_state_goes_on_bit_for_bit():
    def run(optimizer: ScaledAdam, ours: list[torch.nn.Parameter], first: int, end: int) -> None:
        for t in range(first, end):
            for p, g in zip(ours, gradients(t), strict=True):
                p.grad = g.clone()
            optimizer.step()

    whole = parameters()
    run(ScaledAdam(whole, LR, clipping_update_period=15), whole, 0, 50)
    half = parameters()
    before = ScaledAdam(half, LR, clipping_update_period=15)
    run(before, half, 0, 23)
    saved = copy.deepcopy(before.state_dict())
    again = [torch.nn.Parameter(p.detach().clone()) for p in half]
    after = ScaledAdam(again, 1.0)
    after.load_state_dict(saved)
    for key, value in after.state_dict()["state"].items():
        for name, tensor in value.items():
            assert torch.equal(tensor, saved["state"][key][name])
    run(after, again, 23, 50)
    for p, expected in zip(again, whole, strict=True):
        assert torch.equal(p, expected)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(bad: float):
    ours = parameters()
    optimizer = ScaledAdam(ours, LR)
    for p, g in zip(ours, gradients(0), strict=True):
        p.grad = g
    optimizer.step()
    before = copy.deepcopy(optimizer.state_dict()), [p.detach().clone() for p in ours]
    ours[-1].grad.view(-1)[3] = bad
    with pytest.raises(NonFiniteGradient):
        optimizer.step()
    assert all(torch.equal(p, old) for p, old in zip(ours, before[1], strict=True))
    assert optimizer.state_dict()["param_groups"][0]["step"] == before[0]["param_groups"][0]["step"] == 1
    for key, value in optimizer.state_dict()["state"].items():
        assert all(torch.equal(tensor, before[0]["state"][key][name]) for name, tensor in value.items())


def test_layouts_in_memory_do_not_matter():
    generator = torch.Generator().manual_seed(3)
    value, gradient = torch.randn(30, 20, generator=generator), torch.randn(30, 20, generator=generator)
    results = []
    for transposed in (False, True):
        p = torch.nn.Parameter(value.clone() if not transposed else value.t().contiguous().t())
        optimizer = ScaledAdam([p], LR)
        for _ in range(6):
            p.grad = gradient.clone() if not transposed else gradient.t().contiguous().t()
            optimizer.step()
        results.append(p.detach())
    torch.testing.assert_close(*results)


def test_it_minimizes():
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(256, 16, generator=generator)
    target = x @ torch.randn(16, 4, generator=generator)
    w = torch.nn.Parameter(0.1 * torch.randn(16, 4, generator=generator))
    optimizer = ScaledAdam([w], LR)
    for t in range(400):
        optimizer.param_groups[0]["lr"] = LR * (1 - t / 400)
        optimizer.zero_grad()
        loss = (x @ w - target).square().mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-3
