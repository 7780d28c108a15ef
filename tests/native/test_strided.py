"""The strided depthwise kernel against torch's convolution: results and all gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from asr import native
from asr.native import strided_convolution

# batch, frames, columns, channels: channels that are no multiple of the kernel's 64, and the fewest of everything
SHAPES = [(2, 9, 19, 64), (1, 3, 5, 7), (3, 26, 20, 130), (1, 31, 1, 16)]
BESIDE = [(1, 1), (2, 1), (0, 0)]  # zeros before the first column, and behind the last


def given(shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = shape, (shape[3], 1, 3, 3), (shape[3],)
    return [
        torch.randn(s, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for s in shapes
    ]


def expected(x: Tensor, weight: Tensor, bias: Tensor, before: int, after: int) -> Tensor:
    seen = F.pad(x.permute(0, 3, 1, 2), (before, after))
    return F.conv2d(seen, weight, bias, stride=2, groups=len(weight)).permute(0, 2, 3, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("before", "after"), BESIDE)
@pytest.mark.parametrize("shape", SHAPES)
def test_against_torch(shape: tuple[int, ...], before: int, after: int, dtype: torch.dtype) -> None:
    columns = (shape[2] + before + after - 3) // 2 + 1
    if columns < 1:
        pytest.skip("no column is left")
    ours, theirs = given(shape, dtype), given(shape, torch.float64)
    y = strided_convolution(*ours, before=before, columns=columns)
    exact = expected(*theirs, before, after)
    weights = torch.randn(exact.shape, dtype=torch.float64)
    y.backward(weights.to(dtype))
    exact.backward(weights)
    tolerance = 1e-5 if dtype is torch.float32 else 1e-12
    for a, b in [(y, exact), *((a.grad, b.grad) for a, b in zip(ours, theirs, strict=True))]:
        assert a is not None and b is not None
        assert a.shape == b.shape
        assert (a.double() - b).abs().max() <= tolerance * b.abs().max().clamp(min=1)


def test_what_does_not_fit() -> None:
    x, weight, bias = given((1, 9, 8, 4), torch.float32)
    with pytest.raises(ValueError, match="do not fit"):
        strided_convolution(x, weight[:3], bias, before=1, columns=4)
    with pytest.raises(ValueError, match="do not fit"):
        strided_convolution(x[:, :2], weight, bias, before=1, columns=4)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = given((2, 9, 10, 5), torch.float32)
    with_kernel = strided_convolution(*parts, before=2, columns=6)
    monkeypatch.setattr(native.strided, "available", lambda: False)
    torch.testing.assert_close(strided_convolution(*parts, before=2, columns=6), with_kernel)
