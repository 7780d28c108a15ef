"""SwooshL and SwooshR: the C kernel against the formula in float64, and the formula against its derivative."""

from __future__ import annotations

import pytest
import torch

from asr.native import swoosh, swoosh_l, swoosh_r

KINDS = [("l", 4.0, 0.035), ("r", 1.0, 0.313261687)]
EXTREMES = torch.tensor([-1e30, -200.0, -88.0, -4.0, 0.0, 1e-30, 4.0, 88.0, 200.0, 1e30])


@pytest.mark.parametrize(("kind", "offset", "constant"), KINDS)
@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 1000, 70_001])
def test_float32_is_the_formula(kind: str, offset: float, constant: float, count: int) -> None:
    x = torch.cat([6 * torch.randn(count, generator=torch.Generator().manual_seed(count)), EXTREMES])
    x.requires_grad_()
    y = swoosh(x, kind)
    (gradient,) = torch.autograd.grad(y, x, torch.linspace(-1, 1, len(x)))
    exact = x.detach().double()
    expected = torch.logaddexp(exact - offset, torch.zeros_like(exact)) - 0.08 * exact - constant
    torch.testing.assert_close(y.detach().double(), expected, rtol=1e-6, atol=1e-6)
    slope = torch.sigmoid(exact - offset) - 0.08
    torch.testing.assert_close(gradient.double(), slope * torch.linspace(-1, 1, len(x)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["l", "r"])
def test_float64_has_its_derivative(kind: str) -> None:
    x = 8 * torch.randn(40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.autograd.gradcheck(lambda x: swoosh(x, kind), x.requires_grad_())


def test_swoosh_r_passes_through_the_origin() -> None:
    assert swoosh_r(torch.zeros(3, dtype=torch.float64)).abs().max() < 1e-9
    assert float(swoosh_l(torch.zeros(1))) == pytest.approx(0.018150 - 0.035, abs=1e-6)


def test_any_layout_type_and_mode() -> None:
    x = torch.randn(6, 5, 4)
    turned = x.permute(2, 0, 1).requires_grad_()
    y = swoosh_l(turned)
    torch.testing.assert_close(y, swoosh_l(x).permute(2, 0, 1))
    y.sum().backward()
    with torch.no_grad():
        assert torch.equal(swoosh_l(turned), y)
    with torch.inference_mode():
        assert torch.equal(swoosh_l(turned), y)
    assert turned.grad is None or turned.grad.shape == turned.shape
    for dtype in (torch.bfloat16, torch.float16):
        z = swoosh_r(x.to(dtype))
        assert z.dtype is dtype
        torch.testing.assert_close(z.float(), swoosh_r(x), rtol=0.02, atol=0.02)


def test_nan_stays_nan() -> None:
    assert swoosh_l(torch.tensor([1.0, torch.nan, 2.0])).isnan().tolist() == [False, True, False]


def test_tracing_sees_torch_operations() -> None:
    class Block(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return swoosh_r(x)

    x = torch.randn(3, 4)
    exported = torch.export.export(Block(), (x,)).module()
    torch.testing.assert_close(exported(2 * x), swoosh_r(2 * x))
