"""Frames that are not worth a transducer's time, for CTC is sure that nothing is said in them (Wang et al. 2023)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Kept"]


class Kept(NamedTuple):
    """The frames of a step that are looked at. places: (B, W), where among its U frames; lens: (B,), how many."""

    places: Tensor
    lens: Tensor

    @classmethod
    def where(cls, wanted: Tensor, lens: Tensor) -> Kept:
        """wanted: (B, U) bool; lens: (B,) the frames that are real."""
        wanted = wanted & (torch.arange(wanted.shape[1], device=lens.device) < lens[:, None])
        count = wanted.sum(1)
        order = (~wanted).to(torch.uint8).argsort(dim=1, stable=True)
        return cls(order[:, : int(count.max()) if len(count) else 0], count)

    def mask(self, frames: int) -> Tensor:
        """(B, U) bool: whether each of a step's frames is looked at."""
        real = torch.arange(self.places.shape[1], device=self.lens.device) < self.lens[:, None]
        return real.new_zeros(len(self.lens), frames).scatter(1, self.places, real)

    def of(self, x: Tensor) -> Tensor:
        """(B, U, D) -> (B, W, D)."""
        return x.gather(1, self.places[..., None].expand(-1, -1, x.shape[2]))
