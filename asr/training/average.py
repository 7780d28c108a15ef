"""The running mean of a model's parameters, and the mean over any span of batches that follows from two of them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from asr.training.sharding import local, shard_like, whole

__all__ = ["RunningAverage", "span_average"]


class RunningAverage:
    """The mean of the parameters over all batches so far, in float64 so that differences of two means stay exact.

    The idea is icefall's averaged model: snapshots of one running mean, from which the mean over every span comes
    afterwards, so that how much to average can be chosen when training is over.
    """

    def __init__(self, model: nn.Module) -> None:
        self.batches = 0  # that the mean stands for
        self.mean = {name: p.detach().double().clone() for name, p in model.named_parameters()}

    def shard(self, model: nn.Module) -> None:
        """Keep shares of it, like the model's; see `asr.training.sharding`."""
        self.mean = {name: shard_like(self.mean[name], p) for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, batches: int) -> None:
        """Count the parameters as they are now for the batches since the last update, up to the number `batches`."""
        share = (batches - self.batches) / batches
        parameters = dict(model.named_parameters())
        for name, mean in self.mean.items():
            local(mean).lerp_(local(parameters[name]).to(local(mean)), share)
        self.batches = batches

    def state_dict(self) -> dict[str, object]:
        return {"batches": self.batches, "mean": self.whole()}

    def whole(self) -> dict[str, Tensor]:
        """The mean by name; of a model in shards, all processes must ask, for the first one."""
        return {name: whole(mean) for name, mean in self.mean.items()}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        batches, mean = state["batches"], state["mean"]
        assert isinstance(batches, int) and isinstance(mean, Mapping)
        self.batches = batches
        for name, value in self.mean.items():
            local(value).copy_(local(shard_like(mean[name], value)))


def span_average(
    early: Mapping[str, Tensor], early_batches: int, late: Mapping[str, Tensor], late_batches: int
) -> dict[str, Tensor]:
    """The mean over the batches after `early_batches` up to `late_batches`, from the means over all batches up to each.

    Raises:
        ValueError: the span is empty.
    """
    a, b = early_batches, late_batches
    if not 0 <= a < b:
        raise ValueError(f"no batch lies after batch {a} and up to batch {b}")
    return {name: (b * late[name].double() - a * early[name].double()) / (b - a) for name in late}
