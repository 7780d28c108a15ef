"""Passes over rows of channels against the same in float64."""

from __future__ import annotations

import pytest
import torch

from asr.native.channels import moments, push


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (128, 64), (129, 65), (1000, 200)], ids=str)
def test_they_are_what_torch_computes(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    x, gradient = (torch.randn(shape, generator=generator) + 0.5 for _ in range(2))
    offset, slope = (torch.randn(shape[1], generator=generator) for _ in range(2))
    mean, square = moments(x)
    torch.testing.assert_close(mean, x.double().mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(square, x.double().square().mean(0), rtol=1e-5, atol=1e-6)
    expected = gradient + gradient.abs() * (offset + slope * x)
    torch.testing.assert_close(push(x, gradient, offset, slope), expected)
    wide = [part.double() for part in (x, gradient, offset, slope)]
    torch.testing.assert_close(push(*wide).float(), expected)
    turned = x.t().contiguous().t()
    assert torch.equal(moments(turned)[0], mean) and torch.equal(
        push(turned, gradient, offset, slope), push(x, gradient, offset, slope)
    )
