"""Products of which torch makes several passes over memory, forward and backward, in one each way."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from asr.native.library import address, available, library, plain
from asr.native.swoosh import swoosh_l

__all__ = ["bypass", "gate", "masked_swoosh_l"]


class _Swoosh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor) -> Tensor:
        x, mask = x.contiguous(), mask.contiguous()
        ctx.save_for_backward(x, mask)
        y = torch.empty_like(x)
        library().rill_swoosh_masked(*map(address, (x, mask, None, y)), *x.shape, torch.get_num_threads())
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x, mask), dy = ctx.saved_tensors, gradients[0].contiguous()
        dx = torch.empty_like(x)
        library().rill_swoosh_masked(*map(address, (x, mask, dy, dx)), *x.shape, torch.get_num_threads())
        return dx, None


def masked_swoosh_l(x: Tensor, mask: Tensor) -> Tensor:
    """SwooshL of x (B, U, D) times mask (B, 1, D), which gets no gradient."""
    if available() and plain(x, mask):
        y: Tensor = _Swoosh.apply(x, mask)
        return y
    return swoosh_l(x) * mask.detach()


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, end: Tensor) -> Tensor:
        x, end = x.contiguous(), end.contiguous()
        ctx.save_for_backward(x, end)
        batch, frames, dim = x.shape[0], x.shape[1], x.shape[2] // 2
        y = x.new_empty(batch, frames, dim)
        library().rill_gate(*map(address, (x, end, None, y)), batch, frames, dim, torch.get_num_threads())
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x, end), dy = ctx.saved_tensors, gradients[0].contiguous()
        dx = torch.empty_like(x)
        library().rill_gate(*map(address, (x, end, dy, dx)), *dy.shape, torch.get_num_threads())
        return dx, None


def gate(x: Tensor, end: Tensor) -> Tensor:
    """(B, U, 2 D) -> (B, U, D): the first half times the sigmoid of the second, zeros from frame `end` (B,) on."""
    if available() and plain(x):
        y: Tensor = _Gate.apply(x, end)
        return y
    value, opening = x.chunk(2, -1)
    after = torch.arange(x.shape[1], device=x.device) >= end[:, None]
    return (value * opening.sigmoid()).masked_fill(after[..., None], 0.0)


class _Bypass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        x, y, scale = (part.contiguous() for part in (x, y, scale))
        ctx.save_for_backward(x, y, scale)
        z = torch.empty_like(x)
        library().rill_bypass(*map(address, (x, y, scale, z)), *x.shape, torch.get_num_threads())
        return z

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (x, y, scale), dz = ctx.saved_tensors, gradients[0].contiguous()
        dx, dy, d_scale = torch.empty_like(x), torch.empty_like(y), torch.empty_like(scale)
        given = x, y, scale, dz, dx, dy, d_scale
        library().rill_bypass_gradient(*map(address, given), *x.shape, torch.get_num_threads())
        return dx, dy, d_scale


def bypass(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    """x + (y - x) scale; x, y: (B, U, D), scale: (D,) or (B, 1, D)."""
    if available() and plain(x, y, scale) and x.shape == y.shape:
        z: Tensor = _Bypass.apply(x, y, scale.expand(len(x), 1, x.shape[2]))
        return z
    return torch.addcmul(x, y - x, scale)
