"""AdamW (Loshchilov and Hutter 2019) for small corpora and short runs, with the trainer's checks of the gradient.

ScaledAdam moves a layer that starts small in proportion to its size, so a network takes thousands of batches to find
its alignments. AdamW moves all weights alike and gets there in hundreds; ScaledAdam wins in the long run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch

from asr.training.optimizer import NonFiniteGradient
from asr.training.sharding import local, norms

__all__ = ["AdamW"]


class AdamW(torch.optim.AdamW):
    """Betas 0.9 and 0.98, weight decay 0.001; the gradient is cut to a norm of `clip`.

    `gradient_norm` and `clipped` tell about the last step. Raises NonFiniteGradient before anything is changed.
    """

    def __init__(self, params: Iterable[Any], lr: float, *, clip: float | None = 1.0) -> None:
        super().__init__(params, lr, betas=(0.9, 0.98), weight_decay=1e-3)
        self.clip = clip
        self.gradient_norm = 0.0
        self.clipped = 1.0

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        self.gradient_norm = float(torch.linalg.vector_norm(norms(gradients)))
        if not math.isfinite(self.gradient_norm):
            raise NonFiniteGradient(f"the norm of the gradient is {self.gradient_norm}")
        self.clipped = 1.0 if self.clip is None else min(1.0, self.clip / (self.gradient_norm + 1e-12))
        if self.clipped < 1.0:
            torch._foreach_mul_([local(gradient) for gradient in gradients], self.clipped)
        super().step()
        return loss
