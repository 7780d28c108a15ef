"""`asr train --diagnose`: what goes through a model's parts, forward and backward, and how the data come."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from random import Random

import torch
from rich.table import Table
from torch import Tensor, nn

from asr.paths import preset
from asr.training.checkpoints import RunFolder
from asr.training.recipe import build, load_recipe, subject_of, train_loader
from asr.training.task import stream

__all__ = ["Diagnosis", "Part", "diagnose"]

DEAD = 1e-3
"""A unit is dead whose values vary by less than this share of what those of its layer do."""
SLOW, PADDED = 0.2, 0.3
"""Shares of the time and of the samples from which on something should be done about the data."""


@dataclass(frozen=True)
class Part:
    """A module. rms, largest: of its output's values; dead: share of its units that hardly vary; gradient, size: norms
    over its parameters, of their gradient (None: none came) and of themselves.

    Nothing is known of the output of a module whose parameters a fused computation takes: rms is None.
    """

    name: str
    rms: float | None
    largest: float
    dead: float
    gradient: float | None
    size: float

    @property
    def complaint(self) -> str:
        """What is wrong with it; empty where nothing is."""
        if self.rms is not None and not self.rms < float("inf"):
            return "values that are not finite"
        if self.gradient is not None and not self.gradient < float("inf"):
            return "a gradient that is not finite"
        if self.size and not self.gradient:
            return "no gradient: it does not learn"
        if self.dead > 0.2:
            return f"{100 * self.dead:.0f} % of its units are dead"
        return ""


@dataclass(frozen=True)
class Diagnosis:
    """parts: in order of the model. loading: share of the time that went into waiting for data; padding: share of the
    samples that are padding; losses: of each batch."""

    parts: tuple[Part, ...]
    loading: float
    padding: float
    losses: tuple[float, ...]

    @property
    def advice(self) -> list[str]:
        """What to do about the data; empty where they come well."""
        found = []
        if self.loading > SLOW:
            found.append(
                "data come too slowly: raise data.workers, or set data.cache=true for a small corpus"
            )
        if self.padding > PADDED:
            found.append(
                "much is padding: raise data.max_duration, so that more utterances of a length meet, with as much less "
                "of train.accumulate, or lower data.max_seconds"
            )
        return found

    def table(self) -> Table:
        told = (
            f"{len(self.losses)} batches: loss {self.losses[0]:.3f} to {self.losses[-1]:.3f}; waiting for data "
            f"{100 * self.loading:.0f} % of the time; padding {100 * self.padding:.0f} % of the samples"
        )
        table = Table(caption="\n".join([told, *self.advice]))
        for title in ("part", "rms", "largest", "dead %", "gradient", "gradient / size", ""):
            table.add_column(title, justify="left" if title in ("part", "") else "right")
        for part in self.parts:
            ratio = f"{part.gradient / part.size:.1e}" if part.gradient and part.size else ""
            table.add_row(
                part.name,
                *(
                    ("", "", "")
                    if part.rms is None
                    else (f"{part.rms:.3g}", f"{part.largest:.3g}", f"{100 * part.dead:.1f}")
                ),
                "" if part.gradient is None else f"{part.gradient:.2e}",
                ratio,
                part.complaint,
            )
        return table


class _Watch:
    """Follows one module's output over all batches, unit by unit."""

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name, self.module = name, module
        self.count = 0
        self.sum = self.squares = torch.zeros(0)
        self.largest = 0.0
        module.register_forward_hook(self)

    @torch.no_grad()
    def __call__(self, _module: nn.Module, _inputs: object, output: object) -> None:
        first = output[0] if isinstance(output, tuple) and output else output
        if not isinstance(first, Tensor) or not first.is_floating_point() or first.ndim < 2:
            return
        x = first.detach().reshape(-1, first.shape[-1]).double()
        if self.sum.shape != x.shape[1:]:
            self.count, self.sum, self.squares = 0, torch.zeros_like(x[0]), torch.zeros_like(x[0])
        self.count += len(x)
        self.sum += x.sum(dim=0)
        self.squares += (x * x).sum(dim=0)
        self.largest = max(self.largest, float(x.abs().max()))

    def part(self) -> Part:
        mean, square = self.sum / max(1, self.count), self.squares / max(1, self.count)
        deviation = (square - mean * mean).clamp(min=0).sqrt()
        rms = float(square.mean().sqrt()) if self.count else None
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        return Part(
            self.name,
            rms,
            self.largest,
            dead=float(
                (deviation < DEAD * deviation.square().mean().sqrt()).double().sum() / max(1, len(mean))
            ),
            gradient=float(nn.utils.get_total_norm(gradients)) if gradients else None,
            size=float(nn.utils.get_total_norm(list(self.module.parameters()))),
        )


def diagnose(
    config_path: str | PathLike[str],
    overrides: Sequence[str] = (),
    *,
    presets: Sequence[str] = (),
    start: Path | None = None,
    batches: int = 10,
) -> Diagnosis:
    """Send so many batches forward and backward through a recipe's model, which is not changed by them.

    Raises:
        ConfigError, DataError, BundleError: as training does.
    """
    recipe = load_recipe(config_path, over=[preset(name) for name in presets], overrides=overrides)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        model = build(recipe, RunFolder(Path(folder)), start=start).to(device).train()
    subject = subject_of(recipe, model)
    watches = [_Watch(name, module) for name, module in model.named_modules() if _is_watched(name, module)]
    random, waiting, working, padding, losses = Random(recipe.train.seed), 0.0, 0.0, [0.0, 0.0], list[float]()
    clock = time.monotonic()
    for item in stream(train_loader(recipe, model.tokenizer)):
        ready = time.monotonic()
        waiting += ready - clock
        whole = subject.trainable(item.batch.to(device))
        if whole is not None:
            subject.draw(random)
            by_name, sizes = subject.losses(whole, epochs=float("inf"))
            loss = torch.stack([value.sum() for value in by_name.values()]).sum() / sizes.sum()
            loss.backward()
            losses.append(float(loss.detach()))
            padding[0] += subject.amount(whole)
            padding[1] += subject.room(whole)
        clock = time.monotonic()
        working += clock - ready
        if len(losses) == batches:
            break
    parts = tuple(watch.part() for watch in watches)
    return Diagnosis(parts, waiting / (waiting + working), 1 - padding[0] / max(1, padding[1]), tuple(losses))


def _is_watched(name: str, module: nn.Module) -> bool:
    """Blocks, what they are made of, and the layers of the heads; not the many small parts inside."""
    if isinstance(module, nn.ModuleList | nn.ModuleDict) or not any(True for _ in module.parameters()):
        return False
    return 0 < sum(not part.isdecimal() for part in name.split(".") if part) <= 3
