"""Dropout with 16 random bits a value: torch draws a number for each, which takes longer than all else about it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from asr.native.library import address, available, library, plain

__all__ = ["dropout"]

STEPS = 1 << 16  # probabilities are multiples of 1 / STEPS


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, drops: int) -> Tensor:
        # int64 numbers are the cheapest bits that torch has
        bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(1 << 63), None)
        ctx.save_for_backward(bits)
        ctx.drops = drops
        return _dropped(x, bits, drops)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _dropped(gradients[0], ctx.saved_tensors[0], ctx.drops), None


def _dropped(x: Tensor, bits: Tensor, drops: int) -> Tensor:
    x = x.contiguous()
    y = torch.empty_like(x)
    parts = map(address, (x, bits, y))
    threshold, scale = drops - STEPS // 2, STEPS / (STEPS - drops)
    library().rill_dropout(*parts, x.numel(), threshold, scale, torch.get_num_threads())
    return y


def dropout(x: Tensor, probability: float) -> Tensor:
    """Each value is zero with the probability, rounded to 1 / 65536, or else larger, so that the mean stays.

    float32 on the CPU runs the C kernel, all else torch's dropout; both draw from torch's generator, differently.
    """
    drops = round(probability * STEPS)
    if available() and plain(x) and 0 < drops < STEPS:
        y: Tensor = _Dropout.apply(x, drops)
        return y
    return F.dropout(x, probability)
