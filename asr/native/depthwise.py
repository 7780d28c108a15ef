"""Depthwise convolutions with the channel last: Zipformer's over time (Yao et al. 2023) and ConvNeXt's 7 x 7.

They need next to no arithmetic, yet through torch's convolutions took a third of a training step: layouts are turned
round and back, and each gradient is a call of its own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from asr.native.library import address, available, library, plain

__all__ = ["chunk_causal_convolution", "depthwise_7x7", "depthwise_convolution", "stream_convolution"]

_TILE, _WINDOW, _TAPS = 8, 1024, 128  # the C kernel's limits


class _Shape(NamedTuple):
    """As the C functions take it: see depthwise.c."""

    batch: int
    inputs: int
    frames: int
    columns: int
    dim: int
    chunk: int
    kernel: int
    width: int
    reach: int


def _fits(kernel: int, width: int, columns: int) -> bool:
    return width * (kernel + _TILE) <= _TAPS and (columns + width - 1) * (kernel + 2 * _TILE) <= _WINDOW


def _expect(name: str, x: Tensor, *shape: int) -> None:
    """The C kernel believes what it is told: a wrong shape must not reach it."""
    if x.shape != shape:
        raise ValueError(f"{name} is {tuple(x.shape)}; with the others it should be {shape}")


class _Depthwise(torch.autograd.Function):
    """x (B, inputs, columns, D) and the `reach` frames before it, weight (kernel * width, D), edge (chunk, D) ->
    (B, frames, columns, D)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        before: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        edge: Tensor | None,
        shape: _Shape,
    ) -> Tensor:
        parts = [None if part is None else part.contiguous() for part in (x, before, weight, bias, edge)]
        ctx.save_for_backward(*parts)
        ctx.shape = shape
        y = x.new_empty(shape.batch, shape.frames, shape.columns, shape.dim)
        library().rill_depthwise(*map(address, parts), address(y), *shape, torch.get_num_threads())
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        parts, dy = ctx.saved_tensors, gradients[0].contiguous()
        x, _, weight, bias, edge = parts
        dx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        d_weight, d_bias = torch.empty_like(weight), torch.empty_like(bias)
        d_edge = None if edge is None else torch.zeros_like(edge)
        results = map(address, (dx, d_weight, d_bias, d_edge))
        threads = torch.get_num_threads()
        library().rill_depthwise_gradient(*map(address, parts), address(dy), *results, *ctx.shape, threads)
        return dx, None, d_weight, d_bias, d_edge, None


def _over_time(
    x: Tensor, past: Tensor | None, weight: Tensor, bias: Tensor, edge: Tensor | None, chunk: int, reach: int
) -> Tensor:
    batch, frames, dim = x.shape
    shape = _Shape(batch, frames, frames, 1, dim, chunk, weight.shape[2], 1, reach)
    y: Tensor = _Depthwise.apply(x, past, weight[:, 0].t(), bias, edge, shape)
    return y.squeeze(2)


def depthwise_convolution(
    x: Tensor, weight: Tensor, bias: Tensor, *, chunk: int, edge_scale: Tensor | None = None
) -> Tensor:
    """(B, U, D) -> (B, U, D): a convolution that sees the whole chunk and nothing outside.

    weight: (D, 1, K), K odd; bias: (D,); U is a multiple of `chunk`. edge_scale (D, chunk): a factor of each frame of
    the result, by its place in the chunk. float32 on the CPU runs the C kernel, all else torch's operations. Raises
    ValueError where the shapes do not fit each other.
    """
    _, frames, dim = x.shape
    if chunk < 1 or frames % chunk:
        raise ValueError(f"{frames} frames are not whole chunks of {chunk}")
    _expect("weight", weight, dim, 1, weight.shape[-1] // 2 * 2 + 1)
    _expect("bias", bias, dim)
    if edge_scale is not None:
        _expect("edge_scale", edge_scale, dim, chunk)
    given = (x, weight, bias) if edge_scale is None else (x, weight, bias, edge_scale)
    if available() and plain(*given) and _fits(weight.shape[2], 1, 1):
        edge = None if edge_scale is None else edge_scale.t()
        return _over_time(x, None, weight, bias, edge, chunk, weight.shape[2] // 2)
    chunks = x.unflatten(1, (-1, chunk)).flatten(0, 1).transpose(1, 2)
    y = F.conv1d(chunks, weight, bias, padding=weight.shape[2] // 2, groups=len(weight))
    y = y if edge_scale is None else y * edge_scale
    return y.transpose(1, 2).reshape(x.shape)


def stream_convolution(x: Tensor, past: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(B, U, D) -> (B, U, D): each frame sees itself, the P frames before it and the K - 1 - P after it, zeros behind
    the last; with K = P + 1 it is causal.

    past: (B, D, P), the frames before x, which get no gradient; weight: (D, 1, K); bias: (D,). Raises ValueError where
    the shapes do not fit each other.
    """
    batch, _, dim = x.shape
    (_, _, reach), kernel = past.shape, weight.shape[-1]
    _expect("past", past, batch, dim, reach)
    _expect("past_weight", weight, dim, 1, max(kernel, reach + 1))
    _expect("past_bias", bias, dim)
    past = past.detach()
    if available() and plain(x, past, weight, bias) and _fits(kernel, 1, 1):
        return _over_time(x, past.transpose(1, 2), weight, bias, None, x.shape[1], reach)
    seen = F.pad(torch.cat([past, x.transpose(1, 2)], 2), (0, kernel - 1 - reach))
    return F.conv1d(seen, weight, bias, groups=len(weight)).transpose(1, 2)


def chunk_causal_convolution(
    x: Tensor,
    past: Tensor,
    past_weight: Tensor,
    past_bias: Tensor,
    chunk_weight: Tensor,
    chunk_bias: Tensor,
    edge_scale: Tensor,
    *,
    chunk: int,
) -> Tensor:
    """(B, U, D) -> (B, U, D): `stream_convolution` plus `depthwise_convolution`.

    past: (B, D, P); past_weight: (D, 1, P + 1); chunk_weight: (D, 1, K); both biases: (D,); edge_scale: (D, chunk);
    U is a multiple of `chunk`. Raises ValueError as they do.
    """
    _expect("past_weight", past_weight, x.shape[2], 1, past.shape[-1] + 1)
    y = depthwise_convolution(x, chunk_weight, chunk_bias, chunk=chunk, edge_scale=edge_scale)
    return y + stream_convolution(x, past, past_weight, past_bias)


def depthwise_7x7(x: Tensor, left: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(B, U + 3, F, C) and the 3 frames before it (B, 3, F, C), which get no gradient -> (B, U, F, C).

    weight: (C, 1, 7, 7), frames by columns; bias: (C,). Beyond the columns are zeros. Raises ValueError where the
    shapes do not fit each other.
    """
    batch, inputs, columns, channels = x.shape
    if inputs <= 3:
        raise ValueError(f"{inputs} frames: the 3 that follow the result's must follow something")
    _expect("left", left, batch, 3, columns, channels)
    _expect("weight", weight, channels, 1, 7, 7)
    _expect("bias", bias, channels)
    left = left.detach()
    if available() and plain(x, left, weight, bias) and _fits(7, 7, columns):
        shape = _Shape(batch, inputs, inputs - 3, columns, channels, inputs - 3, 7, 7, 3)
        taps = weight.flatten(1).t()
        y: Tensor = _Depthwise.apply(x, left, taps, bias, None, shape)
        return y
    seen = torch.cat([left, x], 1).permute(0, 3, 1, 2)
    return F.conv2d(seen, weight, bias, padding=(0, 3), groups=channels).permute(0, 2, 3, 1)
