"""The gates against the same in float64: results and gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from asr.native.gates import bypass, gate, masked_swoosh_l

SHAPES = [(1, 1, 1), (2, 5, 17), (3, 70, 64), (2, 33, 130)]


def check(call: Callable[..., Tensor], *given: Tensor) -> None:
    doubles = [x.detach().double().requires_grad_() for x in given]
    y, expected = call(*given), call(*doubles)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(3))
    results = [y, *torch.autograd.grad(y, given, dy)]
    wanted = [expected, *torch.autograd.grad(expected, doubles, dy.double())]
    for got, want in zip(results, wanted, strict=True):
        torch.testing.assert_close(
            got.double(), want, rtol=1e-5, atol=2e-6 * max(1.0, float(want.detach().abs().max()))
        )


def tensors(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [(2 * torch.randn(shape, generator=generator)).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_masked_swoosh(shape: tuple[int, int, int]) -> None:
    mask = torch.rand(shape[0], 1, shape[2], generator=torch.Generator().manual_seed(2))
    check(lambda x: masked_swoosh_l(x, mask.to(x.dtype)), *tensors(shape))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gate(shape: tuple[int, int, int]) -> None:
    batch, frames, dim = shape
    end = torch.tensor([frames, 0, frames // 2][:batch])
    check(lambda x: gate(x, end), *tensors((batch, frames, 2 * dim)))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("each", [True, False])
def test_bypass(shape: tuple[int, int, int], each: bool) -> None:
    batch, _, dim = shape
    check(bypass, *tensors(shape, shape, (batch, 1, dim) if each else (dim,)))


def test_any_layout() -> None:
    x, y, scale = (part.detach() for part in tensors((4, 6, 2), (4, 6, 2), (4,)))
    turned = x.permute(2, 1, 0), y.permute(2, 1, 0), scale
    torch.testing.assert_close(bypass(*turned), torch.lerp(turned[0], turned[1], scale))
