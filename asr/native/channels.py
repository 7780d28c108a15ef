"""Passes over rows of channels, for the regularisers: one pass each where torch needs two to four."""

from __future__ import annotations

import torch
from torch import Tensor

from asr.native.library import address, available, library, plain

__all__ = ["moments", "push"]


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """(N, C) -> the channels' means and mean squares, (C,) float64 each."""
    if not (available() and plain(x)):
        return x.mean(0).double(), x.square().mean(0).double()
    x = x.contiguous()
    mean, square = (torch.empty(x.shape[1], dtype=torch.float64) for _ in range(2))
    library().rill_moments(address(x), address(mean), address(square), *x.shape, torch.get_num_threads())
    return mean, square


def push(x: Tensor, gradient: Tensor, offset: Tensor, slope: Tensor) -> Tensor:
    """gradient + |gradient| (offset + slope x); x, gradient: (N, C), offset, slope: (C,)."""
    if not (available() and plain(x, gradient, offset, slope)):
        return torch.addcmul(gradient, gradient.abs(), torch.addcmul(offset, x, slope))
    given = [part.contiguous() for part in (x, gradient, offset, slope)]
    y = torch.empty_like(given[0])
    library().rill_push(*map(address, given), address(y), *x.shape, torch.get_num_threads())
    return y
