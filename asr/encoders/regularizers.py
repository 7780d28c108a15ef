"""What Zipformer's training adds to the gradients, and schedules over training steps (Yao et al. 2023, section 3).

All of it is the identity in evaluation. A module that follows a schedule derives from `Scheduled`; the trainer tells
the encoder how far training is, and the encoder tells them all (`set_batch_count`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from asr.native.channels import moments, push

__all__ = [
    "Balancer",
    "Schedule",
    "Scheduled",
    "Whiten",
    "limit_gradient",
    "measure_as_often",
    "measured_how_often",
    "scale_gradient",
    "set_batch_count",
]

RMS_OF_MEAN_ABSOLUTE = math.sqrt(math.pi / 2)  # of a Gaussian without mean


class Schedule:
    """A piecewise linear function of the number of training batches, constant outside its points."""

    def __init__(self, *points: tuple[float, float]) -> None:
        self.points = points

    def __call__(self, batch_count: float) -> float:
        (left, low), *rest = self.points
        if batch_count <= left:
            return low
        for right, high in rest:
            if batch_count < right:
                return low + (high - low) * (batch_count - left) / (right - left)
            left, low = right, high
        return low


def constant(value: float) -> Schedule:
    return Schedule((0.0, value))


class Scheduled(nn.Module):
    """A module whose training follows schedules."""

    batch_count: float = 0.0

    def now(self, schedule: Schedule) -> float:
        return schedule(self.batch_count)


def set_batch_count(module: nn.Module, batch_count: float) -> None:
    """Tell every scheduled part of `module` how many batches it has been trained on."""
    for part in module.modules():
        if isinstance(part, Scheduled):
            part.batch_count = batch_count


class Balancer(Scheduled):
    """Push each channel's share of positive values, and its mean absolute value, into a range.

    The push is added to the gradient, in proportion to it: `g + |g| * scale * d`, with d the direction of steepest
    descent of the channel's distance from its range, of unit root mean square. For speed a random share of the
    batches has it. The last dimension is the channel.
    """

    GRADIENT_SCALE = 0.04

    def __init__(
        self,
        *,
        positive: tuple[float | Schedule, float | Schedule] = (0.05, 0.95),
        absolute: tuple[float | Schedule, float | Schedule] = (0.2, 100.0),
        probability: Schedule | None = None,
    ) -> None:
        super().__init__()
        self.positive, self.absolute = positive, absolute
        self.probability = probability or Schedule((0.0, 0.5), (8000.0, 0.125))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not torch.is_grad_enabled() or random.random() >= self.now(self.probability):
            return x
        positive = tuple(self._value(p) for p in self.positive)
        absolute = tuple(self._value(a) for a in self.absolute)
        mean = tuple(_mean_of_positive_share(p) for p in positive)
        rms = tuple(RMS_OF_MEAN_ABSOLUTE * a for a in absolute)
        balanced: Tensor = _Balance.apply(x, mean, rms, self.GRADIENT_SCALE)
        return balanced

    def _value(self, bound: float | Schedule) -> float:
        return self.now(bound) if isinstance(bound, Schedule) else bound


def _mean_of_positive_share(share: float) -> float:
    """The mean of a Gaussian of unit deviation that is positive with this probability."""
    if share <= 0 or share >= 1:
        return math.copysign(math.inf, share - 0.5)
    return math.sqrt(2) * float(torch.special.erfinv(torch.tensor(2 * share - 1, dtype=torch.float64)))


class _Balance(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mean: tuple[float, float], rms: tuple[float, float], scale: float
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.limits = mean, rms, scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (x,), (gradient,) = ctx.saved_tensors, gradients
        (mean_low, mean_high), (rms_low, rms_high), scale = ctx.limits
        x = x.detach().reshape(-1, x.shape[-1])
        mean, square = moments(x)
        square = square.clamp(min=1e-20)
        # A channel that says nearly the same everywhere has no direction to speak of, but must not overflow.
        variance = torch.maximum(square - mean.square(), 1e-6 * square)
        ratio, rms = mean / variance.sqrt(), square.sqrt()
        # The loss |ratio - range| + |log(rms / range)| has, per channel, a gradient that is affine in x.
        ratio_sign = (ratio > mean_high).double() - (ratio < mean_low).double()
        rms_sign = (rms > rms_high).double() - (rms < rms_low).double()
        slope = rms_sign / square - ratio_sign * ratio / variance
        offset = ratio_sign * (1 + ratio.square()) / variance.sqrt()
        norm = ((offset + slope * mean).square() + slope.square() * variance).sqrt()
        factor = torch.where(norm > 0, scale / norm.clamp(min=1e-300), 0.0)
        offset, slope = (factor * offset).to(x.dtype), (factor * slope).to(x.dtype)
        return push(x, gradient.reshape(x.shape), offset, slope).view_as(gradient), None, None, None


class Whiten(Scheduled):
    """Keep the covariance of the channels, in each of `groups`, near a multiple of the identity.

    The measure is C tr(S S) / tr(S)^2 for a covariance S of C channels: 1 when all eigenvalues are equal, C when one
    is all there is. Above `limit`, the gradient gets a share `scale` of the measure's own.
    """

    def __init__(self, limit: float | Schedule, *, groups: int = 1, scale: float = 0.01) -> None:
        super().__init__()
        self.limit = limit if isinstance(limit, Schedule) else constant(limit)
        self.groups, self.scale = groups, scale
        self.rare, self.often = (
            0.025,
            0.25,
        )  # how often it is measured, and how often when it last was too large
        self.probability = self.often

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not torch.is_grad_enabled() or random.random() >= self.probability:
            return x
        whitened: Tensor = _Whiten.apply(x, self)
        return whitened


def _whitening(x: Tensor) -> tuple[Tensor, Tensor]:
    """(G, N, C), each channel's mean 0 -> the measure, and (G, C, C) by which x becomes the measure's gradient."""
    covariance = x.transpose(1, 2) @ x
    diagonal, size = covariance.diagonal(dim1=1, dim2=2).mean(), covariance[..., 0].numel()
    scale = diagonal.square() + 1e-20
    measure = covariance.square().sum() / size / scale
    slope = covariance.clone()
    slope.diagonal(dim1=1, dim2=2).sub_(measure * diagonal)
    return measure, slope * (4 / size / scale)


def measured_how_often(model: nn.Module) -> dict[str, float]:
    """By name, how often each `Whiten` of a model measures: what a run that goes on must know beside the weights."""
    return {name: m.probability for name, m in model.named_modules() if isinstance(m, Whiten)}


def measure_as_often(model: nn.Module, before: Mapping[str, float]) -> None:
    """Put back what `measured_how_often` told."""
    for name, module in model.named_modules():
        if isinstance(module, Whiten) and name in before:
            module.probability = before[name]


class _Whiten(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, module: Whiten) -> Tensor:
        ctx.save_for_backward(x)
        ctx.module = module
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,), (gradient,), module = ctx.saved_tensors, gradients, ctx.module
        # (G, N, C) of one group's channels each; all in float32
        x, g = (part.detach().float().reshape(-1, module.groups, x.shape[-1] // module.groups).transpose(0, 1)
                for part in (x, gradient))  # fmt: skip
        x = x - x.mean(1, keepdim=True)
        measure, slope = _whitening(x)
        if measure.item() <= module.now(module.limit):
            module.probability = module.rare
            return gradient, None
        module.probability = module.often
        penalty = x @ slope
        share = module.scale * g.norm() / (penalty.norm() + 1e-20)
        g = torch.addcmul(g, penalty, share)
        return g.transpose(0, 1).reshape(gradient.shape).to(gradient.dtype), None


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.scale, None


def scale_gradient(x: Tensor, scale: float) -> Tensor:
    scaled: Tensor = _ScaleGradient.apply(x, scale)
    return scaled


class _LimitGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.range = low, high
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (x,), (gradient,), (low, high) = ctx.saved_tensors, gradients, ctx.range
        outward = ((x < low) & (gradient > 0)) | ((x > high) & (gradient < 0))
        return torch.where(outward, -gradient, gradient), None, None


def limit_gradient(x: Tensor, low: float, high: float) -> Tensor:
    """Clamp a parameter; a gradient that would take it further out of its range brings it back instead."""
    limited: Tensor = _LimitGradient.apply(x, low, high)
    return limited
