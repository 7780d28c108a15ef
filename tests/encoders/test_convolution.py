"""The depthwise convolution against torch's, over what each frame may see."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from asr.encoders import FULL_CONTEXT, Chunk
from asr.encoders.attention import Context
from asr.encoders.convolution import ConvolutionModule, DepthwiseConvolution
from asr.encoders.norm import BatchNorm

DIM = 6


def context(x: torch.Tensor, chunk: Chunk, lens: list[int] | None = None) -> Context:
    real = torch.tensor(lens or [x.shape[1]] * len(x))
    return Context.of(x, real, torch.zeros(len(x), dtype=torch.int64), chunk)


@torch.inference_mode()
@pytest.mark.parametrize("kernel", [1, 4, 7, 31, 32])
@pytest.mark.parametrize("right", ["causal", "chunk"])
@pytest.mark.parametrize("size", [0, 4, 12])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bias", [True, False])
def test_each_frame_sees_what_it_may(
    kernel: int, right: Any, size: int, dtype: torch.dtype, bias: bool
) -> None:
    """One window at a time: zeros before the stream, behind its end, and beyond a chunk."""
    torch.manual_seed(0)
    layer = DepthwiseConvolution(DIM, kernel, right=right, bias=bias).to(dtype)
    x, lens = torch.randn(2, 24, DIM, dtype=dtype), [24, 17]
    y, _ = layer(x, context(x, Chunk(size), lens), layer.init_state(2))
    history, ahead = layer.history, kernel - 1 - layer.history
    for b, n in enumerate(lens):
        for i in range(n):
            end = min(n, (i // size + 1) * size if size else n)
            seen = F.pad(x[b, :end].T, (history, ahead))[:, i : i + kernel]
            expected = (seen * layer.weight[:, 0]).sum(1) + (0 if layer.bias is None else layer.bias)
            torch.testing.assert_close(
                y[b, i], expected, atol=1e-5 if dtype == torch.float32 else 1e-12, rtol=0
            )


@torch.inference_mode()
def test_full_context_is_the_symmetric_convolution() -> None:
    torch.manual_seed(0)
    layer = DepthwiseConvolution(DIM, 9).double()
    x = torch.randn(2, 20, DIM, dtype=torch.float64)
    y, _ = layer(x, context(x, FULL_CONTEXT), layer.init_state(2))
    expected = F.conv1d(x.transpose(1, 2), layer.weight, layer.bias, padding=4, groups=DIM).transpose(1, 2)
    torch.testing.assert_close(y, expected, atol=1e-12, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("right", ["causal", "chunk"])
@pytest.mark.parametrize("size", [2, 4, 8])
@pytest.mark.parametrize("kind", ["layer", "batch"])
def test_steps_are_the_whole(right: Any, size: int, kind: Any) -> None:
    """With chunks shorter and longer than the kernel, and a state whose shape is fixed from the first step."""
    torch.manual_seed(0)
    layer = ConvolutionModule(DIM, 7, right=right, norm_kind=kind).double().eval()
    if isinstance(layer.norm, BatchNorm):
        layer.norm.running_mean += torch.randn(DIM)
        layer.norm.running_var *= 3
    x = torch.randn(2, 24, DIM, dtype=torch.float64)
    whole, _ = layer(x, context(x, Chunk(size)), layer.init_state(2))
    state, outputs = layer.init_state(2), []
    for piece in x.split(size, 1):
        shape = state.past.shape
        y, state = layer(piece, context(piece, Chunk(size)), state)
        assert state.past.shape == shape
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, 1), whole, atol=1e-12, rtol=0)


def test_batch_norm_is_torchs() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 5, DIM)
    ours, theirs = BatchNorm(DIM), torch.nn.BatchNorm1d(DIM)
    torch.testing.assert_close(ours(x), theirs(x.transpose(1, 2)).transpose(1, 2))
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x.transpose(1, 2)).transpose(1, 2))
