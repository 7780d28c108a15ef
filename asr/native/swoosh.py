"""SwooshL and SwooshR, the activations of Zipformer (Yao et al. 2023), in one pass each way.

swoosh(x) = log(1 + exp(x - offset)) - 0.08 x - constant. Only the input is kept for the backward pass.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from asr.native.library import address, available, library, plain, real

__all__ = ["swoosh", "swoosh_l", "swoosh_r"]

SLOPE = 0.08


class _Curve(NamedTuple):
    offset: float
    constant: float


# SwooshR's constant makes it pass through the origin; SwooshL is slightly below zero there.
_CURVES = {"l": _Curve(4.0, 0.035), "r": _Curve(1.0, 0.313261687)}


def _value(x: Tensor, curve: _Curve) -> Tensor:
    # The threshold keeps torch from replacing log(1 + exp(x)) by x at 20, which float64 can tell apart.
    return softplus(x - curve.offset, threshold=1000.0) - SLOPE * x - curve.constant


def _forward(x: Tensor, curve: _Curve) -> Tensor:
    if not (available() and plain(x)):
        return _value(x, curve)
    x = x.contiguous()
    y = torch.empty_like(x)
    library().rill_swoosh_forward(address(x), address(y), x.numel(), *curve, torch.get_num_threads())
    return y


class _Swoosh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, curve: _Curve) -> Tensor:
        ctx.save_for_backward(x)
        ctx.curve = curve
        return _forward(x, curve)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        offset = ctx.curve.offset
        if not (available() and plain(x, dy)):
            return dy * (torch.sigmoid(x - offset) - SLOPE), None
        x, dy = x.contiguous(), dy.contiguous()
        dx = torch.empty_like(x)
        threads = torch.get_num_threads()
        library().rill_swoosh_backward(address(x), address(dy), address(dx), x.numel(), offset, threads)
        return dx, None


def swoosh(x: Tensor, kind: Literal["l", "r"]) -> Tensor:
    """SwooshL (`kind` "l") or SwooshR ("r") of a tensor of any shape, floating type and device.

    float32 on the CPU runs the C kernel; float16 and bfloat16 there go through float32 and come back. Other
    types and devices, and tracing, use torch's operations.
    """
    curve = _CURVES[kind]
    if x.dtype in (torch.float16, torch.bfloat16) and x.device.type == "cpu":
        return swoosh(x.float(), kind).to(x.dtype)
    if not real(x):
        return _value(x, curve)
    if x.requires_grad and torch.is_grad_enabled():
        return _Swoosh.apply(x, curve)
    return _forward(x, curve)


def swoosh_l(x: Tensor) -> Tensor:
    """SwooshL: offset 4, for modules that are often near zero, such as feed-forward layers."""
    return swoosh(x, "l")


def swoosh_r(x: Tensor) -> Tensor:
    """SwooshR: offset 1, zero at zero, for convolutions."""
    return swoosh(x, "r")
