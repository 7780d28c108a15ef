"""The depthwise convolution with stride 2, channel last, by which FastConformer and Squeezeformer subsample.

Through torch its gradient was a ninth of FastConformer's training step, and copies around it as much.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from asr.native.library import address, available, library, plain

__all__ = ["strided_convolution"]

KERNEL, STRIDE = 3, 2


class _Shape(NamedTuple):
    """As the C functions take it: see strided.c."""

    batch: int
    inputs: int
    input_columns: int
    frames: int
    columns: int
    dim: int
    before: int


class _Strided(torch.autograd.Function):
    """x (B, T, F, C), weight (9, C), bias (C,) -> (B, T', F', C)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, shape: _Shape) -> Tensor:
        x, weight = x.contiguous(), weight.contiguous()
        ctx.save_for_backward(x, weight)
        ctx.shape = shape
        y = x.new_empty(shape.batch, shape.frames, shape.columns, shape.dim)
        parts = map(address, (x, weight, bias.contiguous(), y))
        library().rill_strided(*parts, *shape, torch.get_num_threads())
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), dy = ctx.saved_tensors, gradients[0].contiguous()
        dx, d_weight, d_bias = torch.zeros_like(x), torch.empty_like(weight), dy.new_empty(ctx.shape.dim)
        parts = map(address, (x, weight, dy, dx, d_weight, d_bias))
        library().rill_strided_gradient(*parts, *ctx.shape, torch.get_num_threads())
        return dx, d_weight, d_bias, None


def strided_convolution(
    x: Tensor, weight: Tensor, bias: Tensor, *, stride: int = STRIDE, before: int, columns: int
) -> Tensor:
    """(B, T, F, C) -> (B, (T - K) / stride + 1, columns, C): each channel by a filter of its own.

    weight: (C, 1, K, K); bias: (C,). `before` columns of zeros stand in front of the first, and as many as it takes
    behind the last. 3 x 3 with stride 2 in float32 on the CPU runs the C kernel, all else torch's operations. Raises
    ValueError where the shapes do not fit each other.
    """
    batch, inputs, input_columns, dim = x.shape
    kernel = weight.shape[-1]
    if weight.shape != (dim, 1, kernel, kernel) or bias.shape != (dim,) or inputs < kernel:
        raise ValueError(
            f"x {tuple(x.shape)}, weight {tuple(weight.shape)}, bias {tuple(bias.shape)} do not fit"
        )
    frames = (inputs - kernel) // stride + 1
    if available() and plain(x, weight, bias) and (kernel, stride) == (KERNEL, STRIDE):
        shape = _Shape(batch, inputs, input_columns, frames, columns, dim, before)
        y: Tensor = _Strided.apply(x, weight.flatten(1).t(), bias, shape)
        return y
    after = max(0, stride * (columns - 1) + kernel - before - input_columns)
    seen = F.pad(x.movedim(3, 1), (before, after))
    return F.conv2d(seen, weight, bias, stride=stride, groups=dim).movedim(1, 3)[:, :, :columns]
