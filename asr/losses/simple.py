"""The normaliser of a joiner that only adds: a log-sum-exp over V of all pairs of rows, as one matrix product."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["log_inner_product"]


def log_inner_product(a: Tensor, b: Tensor) -> Tensor:
    """log(sum over v of exp(a[i, v] + b[j, v])): (B, I, V), (B, J, V) -> (B, I, J). Differentiable.

    Entries more than 80 nats below their row's largest are raised to that: rows that peak apart from each other
    keep a finite value and a gradient that draws them together.
    """
    return _LogInnerProduct.apply(a, b)


class _LogInnerProduct(torch.autograd.Function):
    """By hand, for autograd would keep and pass over five more tensors of the size of `a`."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        a_top, b_top = a.amax(2, keepdim=True), b.amax(2, keepdim=True)
        # No lower: float32's denormal numbers begin at -87, and slow a matrix product a hundredfold.
        a_exp, b_exp = (a - a_top).clamp_(min=-80.0).exp_(), (b - b_top).clamp_(min=-80.0).exp_()
        product = a_exp.bmm(b_exp.mT)
        ctx.save_for_backward(a_exp, b_exp, product)
        return product.log().add_(a_top).add_(b_top.mT)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        a_exp, b_exp, product = ctx.saved_tensors
        scaled = gradient / product
        return scaled.bmm(b_exp).mul_(a_exp), scaled.mT.bmm(a_exp).mul_(b_exp)
