"""Norms over the last dimension, by name."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

__all__ = ["BatchNorm", "Norm", "norm"]

Norm = Literal["layer", "batch"]


class BatchNorm(nn.BatchNorm1d):
    """Batch norm of (B, U, D): in evaluation an affine map, which streaming does not notice.

    In training it counts padding as frames, as all that were published do: an encoder of our own has layer norms.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, 1)).view_as(x)


def norm(kind: Norm, dim: int, *, epsilon: float = 1e-5) -> nn.Module:
    return nn.LayerNorm(dim, eps=epsilon) if kind == "layer" else BatchNorm(dim, eps=epsilon)
