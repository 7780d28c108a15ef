"""`asr train --find-batch`: the largest `data.max_duration` that the device takes, measured on the recipe's own model.

Training steps are made on noise of the shapes that the data's worst batches have: few of the longest utterances
(attention grows with the square of the length), and many short ones with the most text (a transducer's lattice grows
with frames x tokens). The budget doubles until memory or speed says stop: on a GPU memory alone, on a CPU also where
twice the batch is hardly faster. Each budget is tried in a process of its own, which begins with nothing used and may
be killed when memory runs out.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asr.audio import HOP, SAMPLE_RATE
from asr.dataset import Batch
from asr.dataset.cuts import text_of
from asr.dataset.manifest import Manifest
from asr.errors import ConfigError, DataError
from asr.model import Model
from asr.native.memory import keep_freed_memory
from asr.paths import preset
from asr.tokenizer import Tokenizer
from asr.training.checkpoints import RunFolder
from asr.training.memory import available, is_out_of_memory, peak
from asr.training.optimizer import NonFiniteGradient
from asr.training.recipe import RecipeConfig, build, load_recipe, subject_of
from asr.training.task import Task
from asr.training.trainer import precision

__all__ = ["Cost", "Found", "Shape", "Step", "Trial", "find_batch", "search", "shapes_of"]

MARGIN = 0.15
"""Of the memory that stays free: allocators fragment, and an epoch has worse batches than its quantiles."""
KNEE = 1.05
"""Twice the batch has to be so much faster, on a CPU."""
SAMPLE = 2000
"""Utterances whose texts tell how dense they are."""


@dataclass(frozen=True)
class Shape:
    """A batch: utterances, the seconds and the tokens of each."""

    utterances: int
    seconds: float
    tokens: int


@dataclass(frozen=True)
class Cost:
    """Of the training steps of one budget, the worst: bytes at most, and seconds of speech (padding included) that are
    trained on in a second."""

    bytes: int
    speed: float


@dataclass(frozen=True)
class Trial:
    """A budget in seconds, and its cost; None where memory ran out."""

    max_duration: float
    cost: Cost | None


@dataclass(frozen=True)
class Found:
    """The setting to make, why not more, and what was tried."""

    max_duration: int
    why: str
    memory: int
    trials: tuple[Trial, ...]

    def to_text(self) -> str:
        lines = [f"{'max_duration':>12} {'memory':>9} {'speech/s':>9}"]
        for trial in self.trials:
            cost = (
                f"{trial.cost.bytes / 1e9:6.2f} GB {trial.cost.speed:9.1f}" if trial.cost else "out of memory"
            )
            lines.append(f"{trial.max_duration:12.0f} {cost}")
        lines.append(f"{self.memory / 1e9:.2f} GB may be used; {self.why}. In the recipe:")
        lines.append(f"data: {{max_duration: {self.max_duration}}}")
        return "\n".join(lines)


def find_batch(
    config_path: str | PathLike[str], overrides: Sequence[str] = (), *, presets: Sequence[str] = ()
) -> Found:
    """Measure a recipe on this machine; nothing is written to its run.

    Raises:
        ConfigError, DataError: the recipe or its data is wrong, or not even one utterance fits.
    """
    recipe = load_recipe(config_path, over=[preset(name) for name in presets], overrides=overrides)
    if not isinstance(recipe, RecipeConfig):
        raise ConfigError(f"{config_path}: --find-batch measures speech models, not a {recipe.kind}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        model = build(recipe, RunFolder(Path(folder)))
        assert isinstance(model, Model)
        shapes, longest, most = shapes_of(recipe, model)
        memory = int((1 - MARGIN) * available(device))
        knee = None if device.type == "cuda" else KNEE
        trying = partial(_in_process, recipe, model.tokenizer.to_bytes())
        return search(trying, shapes, longest=longest, most=most, memory=memory, knee=knee)


def _in_process(recipe: RecipeConfig, tokenizer: bytes, shapes: Sequence[Shape]) -> Cost | None:
    """The cost of shapes, measured in a process that is new; nothing where memory ran out, or it was killed for it."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_measure, recipe, tokenizer, shapes).result()
        except BrokenProcessPool:
            return None


def _measure(recipe: RecipeConfig, tokenizer: bytes, shapes: Sequence[Shape]) -> Cost | None:
    torch.set_num_threads(recipe.train.threads or len(os.sched_getaffinity(0)))
    keep_freed_memory()
    model = Model(recipe.model, Tokenizer.from_bytes(recipe.tokenizer.kind, tokenizer))
    return Step(model.to("cuda" if torch.cuda.is_available() else "cpu"), recipe)(shapes)


def shapes_of(recipe: RecipeConfig, model: Model) -> tuple[Callable[[float], list[Shape]], float, float]:
    """The worst batches of a budget in seconds; the longest utterance that training may see, and all, in seconds."""
    data = recipe.data
    manifest = Manifest(data.train)
    inside = (manifest.durations >= data.min_seconds) & (manifest.durations <= data.max_seconds)
    if not inside.any():
        raise DataError(f"no utterance of {data.min_seconds:g} to {data.max_seconds:g} s in data.train")
    durations = manifest.durations[inside]
    some = np.flatnonzero(inside)[:: max(1, int(inside.sum()) // SAMPLE)]
    counts = [len(model.tokenizer.encode(text_of(manifest[int(i)], case=data.case))) for i in some]
    density = float(np.quantile(np.array(counts) / manifest.durations[some], 0.99)) * max(data.speeds)
    longest = float(durations.max()) / min(data.speeds)
    if data.joining is not None:
        longest = max(longest, data.joining.max_seconds)
    short = float(np.quantile(durations, 0.05)) / max(data.speeds)

    frames = SAMPLE_RATE / HOP / model.encoder.subsampling  # a second

    def shapes(max_duration: float) -> list[Shape]:
        # CTC needs a frame for each token, and one between two that are alike: of noise, half as many are safe.
        return [
            Shape(
                max(1, int(max_duration / seconds)), seconds, max(1, int(seconds * min(density, frames / 2)))
            )
            for seconds in (longest, short)
        ]

    return shapes, longest, float(durations.sum())


class Step:
    """Makes a training step of each shape; gives the cost of the worst, or nothing where memory runs out."""

    def __init__(self, model: Model, recipe: RecipeConfig) -> None:
        self.device = next(model.parameters()).device
        self.subject = subject_of(recipe, model)
        self.task = Task(self.subject, recipe.train, run_dir=Path())
        self.optimizer = self.task.configure_optimizers()
        self.mixed = precision(recipe.train.precision) == "bf16-mixed"
        self.epochs, self.tokens = float(recipe.data.plain_epochs), model.tokenizer.size

    def __call__(self, shapes: Sequence[Shape]) -> Cost | None:
        speeds = []
        try:
            self._train(
                Shape(1, min(2.0, shapes[0].seconds), 1)
            )  # from now on the optimizer's state is there
            for shape in shapes:
                start = time.perf_counter()
                self._train(shape)
                speeds.append(shape.utterances * shape.seconds / (time.perf_counter() - start))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return None
        return Cost(peak(self.device), min(speeds))

    def _train(self, shape: Shape) -> None:
        batch = self._noise(shape)

        def closure() -> Any:
            self.optimizer.zero_grad()
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed):
                by_name, sizes = self.subject.losses(batch, epochs=self.epochs)  # in full context
                total = self.task.weigh(by_name).sum() / sizes.sum()
            total.backward()
            return total.detach()

        with contextlib.suppress(NonFiniteGradient):  # of noise; it took as much memory
            self.optimizer.step(closure)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _noise(self, shape: Shape) -> Batch:
        generator = torch.Generator().manual_seed(0)
        count, length = shape.utterances, round(shape.seconds * SAMPLE_RATE)
        tokens = torch.randint(1, self.tokens, (count, shape.tokens), generator=generator, dtype=torch.int64)
        return Batch(
            ids=tuple(map(str, range(count))),
            samples=0.05 * torch.randn(count, length, generator=generator),
            sample_lens=torch.full((count,), length),
            tokens=tokens,
            token_lens=torch.full((count,), shape.tokens),
            texts=("",) * count,
        ).to(self.device)


def search(
    trying: Callable[[list[Shape]], Cost | None],
    shapes: Callable[[float], list[Shape]],
    *,
    longest: float,
    most: float,
    memory: int,
    knee: float | None,
) -> Found:
    """The largest budget whose steps stay below `memory` bytes, in whole seconds, from `longest` to `most`.

    knee: stop, too, where twice the budget is not so many times as fast; None looks at memory alone.
    Nothing is tried that would take more than `memory` by what was measured before.

    Raises:
        DataError: one utterance alone does not fit.
    """
    trials: list[Trial] = []

    def attempt(budget: float) -> Cost | None:
        cost = trying(shapes(budget))
        trials.append(Trial(budget, cost))
        return cost

    def found(best: float, why: str) -> Found:
        return Found(max(int(best), int(np.ceil(longest))), why, memory, tuple(trials))

    cost = attempt(longest)
    if cost is None or cost.bytes > memory:
        raise DataError(
            f"an utterance of {longest:.1f} s alone takes more than the {memory / 1e9:.2f} GB that may be used: lower "
            "data.max_seconds, take a smaller model, or bf16"
        )
    best, before = longest, cost
    base = slope = 0.0
    while True:
        wanted = min(2 * best, most)
        if wanted <= best:
            return found(best, "an epoch holds no more")
        if slope and base + slope * wanted > memory:
            wanted = (memory - base) / slope
            if wanted < 1.1 * best:
                return found(best, "more would not fit")
        cost = attempt(wanted)
        if cost is None or cost.bytes > memory:
            return _between(attempt, found, best, wanted, memory)
        if knee is not None and cost.speed < knee * before.speed and wanted >= 1.9 * best:
            return found(best, "twice as much would fit, and be hardly faster")
        slope = max(slope, (cost.bytes - before.bytes) / (wanted - best))
        base = cost.bytes - slope * wanted
        best, before = wanted, cost


def _between(
    attempt: Callable[[float], Cost | None],
    found: Callable[[float, str], Found],
    best: float,
    wanted: float,
    memory: int,
) -> Found:
    """Halve what lies between a budget that fits and one that does not."""
    while wanted > 1.1 * best:
        middle = (best + wanted) / 2
        cost = attempt(middle)
        if cost is None or cost.bytes > memory:
            wanted = middle
        else:
            best = middle
    return found(best, "more did not fit")
