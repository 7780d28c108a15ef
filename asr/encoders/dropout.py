"""Dropout as a module."""

from __future__ import annotations

from torch import Tensor, nn

from asr.native.dropout import dropout

__all__ = ["Dropout"]


class Dropout(nn.Dropout):
    """Of any shape; in evaluation nothing happens. Faster than torch's on the CPU: see `asr.native.dropout`."""

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p) if self.training and self.p > 0 else x
