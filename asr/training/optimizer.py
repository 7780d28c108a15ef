"""ScaledAdam: Adam whose step is proportional to the size of the parameter that it moves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

from asr.training.sharding import local, norms, over_shards, shards_of

__all__ = ["NonFiniteGradient", "ScaledAdam"]

_BLOCK = (
    1 << 15
)  # elements: parameter, gradient, both moments and the scratch of a block stay in a core's cache
_EARLY_MEDIANS = (
    10,
    20,
    40,
)  # steps at which a first clipping threshold is set, before a whole period has passed


class NonFiniteGradient(ArithmeticError):  # noqa: N818  (what it says is that, not an error of ours)
    """The gradient's norm is infinite or not a number; neither parameters nor state were touched."""


@dataclass(frozen=True)
class _Bucket:
    """Parameters of one shape whose moments lie in one tensor: few large operations in place of many small ones."""

    indices: slice  # the bucket's place in the group's vectors
    parameters: list[Tensor]
    delta: Tensor  # (n, *shape): the last step taken, which is the momentum
    square: Tensor  # (n, *shape): running mean of the squared gradient


@dataclass(frozen=True)
class _Layout:
    parameters: list[Tensor]  # in the order of the group's vectors: scalars first, then shape by shape
    scalars: int
    counts: Tensor  # (N,) elements of each parameter
    buckets: list[_Bucket]

    def gradients(self) -> list[Tensor]:
        for p in self.parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        return [p.grad for p in self.parameters if p.grad is not None]


class ScaledAdam(Optimizer):
    """The optimizer of Zipformer (Yao et al. 2023, arXiv 2310.11230, section 4; facts of the defaults from icefall).

    Each tensor moves by `lr` times its own root mean square, so relative change is what the learning rate states.
    Besides, the scale of each tensor is learnt: every `size_update_period` steps the tensor is multiplied by a
    factor found by Adam from the gradient with respect to the logarithm of the scale, with the rms kept within
    [`param_min_rms`, `param_max_rms`]. Single numbers take plain Adam steps at `scalar_lr_scale` times the rate,
    bounded by `scalar_max`. Momentum is on the step and not on the gradient. Of a model in shards (FSDP) each process
    moves its own, by norms over all.

    The gradient is scaled down when its norm, each tensor weighted by its rms, exceeds `clipping_scale` times the
    median of the last `clipping_update_period` norms; `clipping_scale=None` turns that off. Parameters without a
    gradient count as having gradient zero. `gradient_norm` and `clipped` tell about the last step.

    Raises:
        NonFiniteGradient: from `step`, before anything is changed.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.045,
        *,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-8,
        clipping_scale: float | None = 2.0,
        clipping_update_period: int = 100,
        scalar_lr_scale: float = 0.1,
        scalar_max: float = 10.0,
        size_update_period: int = 4,
        param_min_rms: float = 1e-5,
        param_max_rms: float = 3.0,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "clipping_scale": clipping_scale,
            "clipping_update_period": clipping_update_period,
            "scalar_lr_scale": scalar_lr_scale,
            "scalar_max": scalar_max,
            "size_update_period": size_update_period,
            "param_min_rms": param_min_rms,
            "param_max_rms": param_max_rms,
            "step": 0,
        }
        super().__init__(params, defaults)
        self._layouts: dict[int, _Layout] = {}
        self.gradient_norm = 0.0  # of the last step, weighted by the parameters' rms
        self.clipped = 1.0  # what the last gradient was multiplied by

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        self._layouts = {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._layouts = {}

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for number, group in enumerate(self.param_groups):
            if number not in self._layouts:
                self._layouts[number] = self._lay_out(group)
        layouts = [self._layouts[number] for number in range(len(self.param_groups))]
        found = [_norm(group, layout) for group, layout in zip(self.param_groups, layouts, strict=True)]
        self.gradient_norm = math.hypot(*found)
        if not math.isfinite(self.gradient_norm):
            raise NonFiniteGradient(f"the norm of the gradient is {self.gradient_norm}")
        for group, layout, norm in zip(self.param_groups, layouts, found, strict=True):
            self._step_group(group, layout, norm)
        return loss

    def _step_group(self, group: dict[str, Any], layout: _Layout, norm: float) -> None:
        gradients = [local(gradient) for gradient in layout.gradients()]
        self.clipped = _clip(group, norm)
        if self.clipped < 1.0:
            torch._foreach_mul_(gradients, self.clipped)
        growth = _growth(group, layout, gradients)
        for bucket in layout.buckets:
            scalar = bucket.indices.stop <= layout.scalars
            _update(group, bucket, None if growth is None or scalar else growth[bucket.indices], scalar)
        group["step"] += 1

    def _lay_out(self, group: dict[str, Any]) -> _Layout:
        """Stack the moments of equal shapes, taking over what a loaded state holds for each parameter."""
        parameters = sorted(group["params"], key=lambda p: (p.numel() != 1, tuple(p.shape)))
        device = parameters[0].device
        # A cache serves a CPU; a GPU wants few launches.
        limit = _BLOCK if device.type == "cpu" else 1 << 62
        buckets: list[_Bucket] = []
        start = 0
        while start < len(parameters):
            first = parameters[start]
            end = start + 1
            while (
                end < len(parameters)
                and parameters[end].shape == first.shape
                and (end + 1 - start) * first.numel() <= limit
            ):
                end += 1
            buckets.append(self._bucket(parameters, slice(start, end)))
            start = end
        count = len(parameters)
        counts = torch.tensor([p.numel() for p in parameters], device=device)
        fresh = {
            "rms": _rms(parameters, counts),
            "scale_square": torch.zeros(count, device=device),
            "scale_gradients": torch.zeros(group["size_update_period"], count, device=device),
            "norms": torch.zeros(group["clipping_update_period"], dtype=torch.float64),
        }
        for name, value in fresh.items():
            group[name] = group[name].to(value.device) if name in group else value
        group.setdefault("threshold", math.inf)
        return _Layout(parameters, int((counts == 1).sum()), counts, buckets)

    def _bucket(self, parameters: list[Tensor], indices: slice) -> _Bucket:
        members = parameters[indices]
        for p in members:
            if not self.state[p]:
                self.state[p] = {"delta": torch.zeros_like(p), "square": torch.zeros_like(p)}
        delta, square = (
            torch.stack([local(self.state[p][name]) for p in members]) for name in ("delta", "square")
        )
        for i, p in enumerate(
            members
        ):  # views, so that `state_dict` is by parameter whatever the buckets are
            self.state[p] = {"delta": shards_of(delta[i], p), "square": shards_of(square[i], p)}
        return _Bucket(indices, members, delta, square)


def _rms(parameters: list[Tensor], counts: Tensor) -> Tensor:
    return norms(parameters) / counts.sqrt()


def _norm(group: dict[str, Any], layout: _Layout) -> float:
    """Of the gradients, each weighted by how far a step moves its parameter."""
    each = norms(layout.gradients())
    return float(torch.linalg.vector_norm(torch.where(layout.counts == 1, each, each * group["rms"])))


def _clip(group: dict[str, Any], norm: float) -> float:
    """The factor for the gradients; keeps the history of norms and, now and then, sets the threshold from it."""
    step, period = group["step"], group["clipping_update_period"]
    if group["clipping_scale"] is None or step == 0:
        return 1.0
    group["norms"][step % period] = norm
    if step % period == 0 or (step < period and step in _EARLY_MEDIANS):
        seen = group["norms"] if step >= period else group["norms"][1 : step + 1]
        group["threshold"] = group["clipping_scale"] * float(seen.sort().values[len(seen) // 2])
    return min(1.0, group["threshold"] / (norm + 1e-20))


def _growth(group: dict[str, Any], layout: _Layout, gradients: list[Tensor]) -> Tensor | None:
    """(N,) by how much of itself each parameter is to grow, or None in the steps between.

    The gradient with respect to the logarithm of a tensor's scale is the inner product of tensor and gradient.
    """
    step, period = group["step"], group["size_update_period"]
    inner = [
        torch.dot(local(p).reshape(-1), g.reshape(-1))
        for p, g in zip(layout.parameters, gradients, strict=True)
    ]
    group["scale_gradients"][step % period] = over_shards(torch.stack(inner), layout.parameters)
    if step % period != period - 1:
        return None
    group["rms"] = _rms(layout.parameters, layout.counts)
    if step == 0:
        return None
    beta = group["betas"][1] ** period
    square, scale_gradients = group["scale_square"], group["scale_gradients"]
    square.mul_(beta).add_(scale_gradients.square().mean(dim=0), alpha=1 - beta)
    rate = group["lr"] * group["scalar_lr_scale"]
    correction = math.sqrt(1 - beta ** ((step + 1) // period))
    growth = -rate * correction * scale_gradients.sum(dim=0) / (square.sqrt() + group["eps"])
    growth.masked_fill_(group["rms"] < group["param_min_rms"], 0.0)
    return growth.masked_fill_(group["rms"] > group["param_max_rms"], -rate * period)


def _update(group: dict[str, Any], bucket: _Bucket, growth: Tensor | None, scalar: bool) -> None:
    members = [local(p) for p in bucket.parameters]
    alone = len(members) == 1 and members[0].is_contiguous()
    p = members[0].view(1, -1) if alone else torch.stack(members).view(len(members), -1)
    gradients = [local(m.grad) for m in bucket.parameters if m.grad is not None]
    g = gradients[0].reshape(1, -1) if alone else torch.stack(gradients).view(p.shape)
    delta, square = bucket.delta.view(p.shape), bucket.square.view(p.shape)
    if scalar:
        p.clamp_(-group["scalar_max"], group["scalar_max"])
        size = torch.full_like(p, group["lr"] * group["scalar_lr_scale"])
    else:
        rms = group["rms"][bucket.indices, None].to(p.dtype)
        size = rms.clamp(min=group["param_min_rms"]) * group["lr"]
    grow = None if growth is None else growth[:, None].to(p.dtype)
    width = max(1, _BLOCK // len(members)) if p.device.type == "cpu" else p.shape[1]
    scratch = torch.empty(len(members), min(width, p.shape[1]), dtype=p.dtype, device=p.device)
    split = (x.split(width, dim=1) for x in (p, g, delta, square))
    for p_block, g_block, delta_block, square_block in zip(*split, strict=True):
        direction = scratch[:, : p_block.shape[1]]
        _update_block(group, p_block, g_block, delta_block, square_block, direction, size, grow)
    if not alone:
        torch._foreach_copy_(members, [x.view(members[0].shape) for x in p.unbind()])


def _update_block(
    group: dict[str, Any],
    p: Tensor,
    g: Tensor,
    delta: Tensor,
    square: Tensor,
    direction: Tensor,
    size: Tensor,
    growth: Tensor | None,
) -> None:
    """One step in place; `direction` is scratch, for a fresh tensor for each block costs as much as the arithmetic."""
    beta1, beta2 = group["betas"]
    correction = math.sqrt(1 - beta2 ** (group["step"] + 1))
    delta.mul_(beta1)
    if growth is not None:
        delta.addcmul_(p, growth, value=1 - beta1)
    square.mul_(beta2).addcmul_(g, g, value=1 - beta2)
    # g / (sqrt(square) / correction + eps), with the correction moved out of the large operations
    torch.sqrt(square, out=direction)
    torch.div(g, direction.add_(group["eps"] * correction), out=direction)
    p.add_(delta.addcmul_(direction, size, value=-(1 - beta1) * correction))
