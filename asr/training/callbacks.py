"""What happens around the batches: the clock, checkpoints, validation, logs."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch

from asr.audio import HOP, SAMPLE_RATE
from asr.inside import views
from asr.training import loggers, pictures
from asr.training.report import write_report
from asr.training.sharding import unsharded
from asr.training.task import Item, Task

if TYPE_CHECKING:
    from asr.dataset import Batch
    from asr.heads.base import Emission
    from asr.training.checkpoints import RunFolder

__all__ = ["Clock", "Keeper", "Logs", "Validation", "describe"]

log = logging.getLogger("asr.training")


class Clock(pl.Callback):
    """Counts batches and hours, and ends training when the budget is used up. Comes first of the callbacks."""

    def __init__(self) -> None:
        self.stop = False  # set from a signal handler: end after the batch at hand
        self._last = 0.0

    def on_train_start(self, trainer: pl.Trainer, task: Task) -> None:  # type: ignore[override]
        self._last = time.monotonic()

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: pl.Trainer, task: Task, outputs: Any, batch: Item, batch_idx: int
    ) -> None:
        now = time.monotonic()
        speech = float(batch.batch.sample_lens.sum()) / SAMPLE_RATE * trainer.world_size
        # All processes count what the first one counts: schedules follow from it, and the end of training.
        seconds, stop, speech = trainer.strategy.broadcast((now - self._last, self.stop, speech))
        self._last = now
        task.count(batch, seconds / 3600, speech)
        if stop or task.share >= 1.0:
            trainer.should_stop = True


class Validation(pl.Callback):
    """Measures the dev set (speech: by each head, offline and streamed), and keeps the best checkpoint."""

    def __init__(self, dev: Iterable[Batch], keeper: Keeper) -> None:
        self.dev = dev
        self.keeper = keeper
        self.drawn = -1  # the batch up to which the encoder's pictures are drawn
        self._epoch = 0
        self._batches = 0
        self._time = 0.0

    def on_train_start(self, trainer: pl.Trainer, task: Task) -> None:  # type: ignore[override]
        self._epoch, self._batches = int(task.progress.epochs), task.progress.batches
        self._time = time.monotonic()

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: pl.Trainer, task: Task, outputs: Any, batch: Item, batch_idx: int
    ) -> None:
        due = trainer.strategy.broadcast(self._due(task))  # clocks differ; all processes must agree
        # A run that a signal stops ends at once; one that is over is measured.
        if task.progress.batches > self._batches and (due or task.share >= 1.0):
            self._epoch, self._batches = int(task.progress.epochs), task.progress.batches
            self.run(trainer, task)
            self._time = time.monotonic()

    def _due(self, task: Task) -> bool:
        c = task.config
        if c.validate_batches is None and c.validate_minutes is None:
            return int(task.progress.epochs) > self._epoch
        batches, minutes = task.progress.batches - self._batches, (time.monotonic() - self._time) / 60
        return batches >= (c.validate_batches or math.inf) or minutes >= (c.validate_minutes or math.inf)

    def run(self, trainer: pl.Trainer, task: Task) -> None:
        """Validate now. Each process decodes the whole dev set, so that they need not meet; the first one reports."""
        start, paused = time.monotonic(), task.paused
        task.model.eval()
        try:
            with unsharded(task):
                measured = task.subject.measure(self.dev, example=partial(self._show, trainer, task))
        finally:
            task.model.train()
        score = float(trainer.strategy.broadcast(measured.score))
        progress = task.progress
        better = score < progress.best
        if better:
            progress.best, progress.best_batches = score, progress.batches
        scalars = measured.scalars
        if trainer.is_global_zero:
            loggers.tell(trainer, scalars, progress.batches)
        self.keeper.save(trainer, task, best=better)
        if trainer.is_global_zero:
            measured.write(self.keeper.folder, progress.batches)
            write_report(self.keeper.folder)
        told = "  ".join(
            f"{name.removeprefix('dev/')} {_number(name, value)}" for name, value in scalars.items()
        )
        task.paused = paused + time.monotonic() - start
        log.info(
            "dev at batch %d: %s  (%.1f s)%s",
            progress.batches, told, time.monotonic() - start, "  best so far" if better else "",
        )  # fmt: skip

    def _show(
        self, trainer: pl.Trainer, task: Task, head: str, batch: Batch, emissions: list[Emission]
    ) -> None:
        """The last (shortest) utterance's text in the log; its spectrogram with the tokens' times, and what there is to
        see inside the model, as pictures."""
        tokenizer = task.model.tokenizer
        log.info("reference  %s", batch.texts[-1])
        log.info("%-10s %s", head, tokenizer.decode([e.token for e in emissions]))
        if not trainer.is_global_zero:
            return
        length = int(batch.sample_lens[-1])
        features = task.model.features(batch.samples[-1:, : length - length % HOP])[0].float().cpu()
        marks = [(e.frame * task.model.frame_seconds, tokenizer.piece(e.token)) for e in emissions]
        image = pictures.spectrogram(features, marks, title=batch.texts[-1])
        shown = {f"alignment/{head}": image}
        if self.drawn < task.progress.batches:
            self.drawn = task.progress.batches
            shown |= views(task.model, batch.samples, batch.sample_lens, batch.tokens, batch.token_lens)
        for name, picture in shown.items():
            loggers.show(trainer, name, picture, task.progress.batches)


class Keeper(pl.Callback):
    """Saves a checkpoint and the running average every so many minutes, after validations, and when training ends.

    Comes after `Validation`.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._time = 0.0
        self._saved = -1

    def on_train_start(self, trainer: pl.Trainer, task: Task) -> None:  # type: ignore[override]
        self._time, self._saved = time.monotonic(), task.progress.items

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: pl.Trainer, task: Task, outputs: Any, batch: Item, batch_idx: int
    ) -> None:
        due = trainer.strategy.broadcast(time.monotonic() - self._time >= task.config.save_minutes * 60)
        if (trainer.should_stop or due) and self._saved != task.progress.items:
            self.save(trainer, task)

    def save(self, trainer: pl.Trainer, task: Task, *, best: bool = False) -> None:
        """Save now; with `best` the checkpoint is kept as the best one, too."""
        start = time.monotonic()
        mean = task.average.whole()
        if trainer.is_global_zero:
            self.folder.add_snapshot(mean, task.average.batches, keep=task.config.keep_averages)
        self.folder.save(trainer, best=best)
        self._time, self._saved = time.monotonic(), task.progress.items
        task.paused += self._time - start


class Logs(pl.Callback):
    """Every `log_batches`: a line in the log, and curves."""

    def __init__(self) -> None:
        self._restart()

    def _restart(self, paused: float = 0.0) -> None:
        self._time = time.monotonic() - paused
        self._amount = self._room = self._waited = 0.0
        self._count = self._utterances = 0
        self._sums: dict[str, torch.Tensor] = {}

    def on_train_start(self, trainer: pl.Trainer, task: Task) -> None:  # type: ignore[override]
        self._restart(task.paused)

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: pl.Trainer, task: Task, outputs: Any, batch: Item, batch_idx: int
    ) -> None:
        self._amount += task.subject.amount(batch.batch) * trainer.world_size
        self._room += task.subject.room(batch.batch) * trainer.world_size
        self._utterances += len(batch.batch.ids) * trainer.world_size
        self._waited += batch.waited
        self._count += 1
        for name, loss in task.last_losses.items():
            self._sums[name] = self._sums[name] + loss if name in self._sums else loss.clone()
        if self._count < task.config.log_batches * task.config.accumulate and task.progress.items > 1:
            return
        means = {name: float(value) / self._count for name, value in self._sums.items()}
        elapsed = max(time.monotonic() - task.paused - self._time, 1e-9)
        speed, waiting = self._amount / elapsed, min(1.0, self._waited / elapsed)
        unit, progress = task.subject.unit, task.progress
        scalars = {f"train/{name}": value for name, value in means.items()} | {
            "train/learning rate": task.optimizer.param_groups[0]["lr"],
            "train/gradient norm": task.optimizer.gradient_norm,
            "train/clipped to": task.optimizer.clipped,
            "train/epochs": progress.epochs,
            "train/hours": progress.hours,
            f"train/{unit} per second": speed,
            "train/share of time that waits for data": waiting,
            f"train/{unit} in a batch": self._amount / self._count,
            "train/utterances in a batch": self._utterances / self._count,
            "train/share of padding": 1 - self._amount / max(self._room, 1e-9),
            "train/utterances left out": progress.left_out + batch.unreadable,
        }
        self._restart(task.paused)
        if not trainer.is_global_zero:
            return
        log.info("%s", describe(task, means, speed, waiting))
        loggers.tell(trainer, scalars, progress.batches)


def describe(task: Task, means: Mapping[str, float], speed: float, waiting: float) -> str:
    """A line of the log. `speed` in seconds of speech a second, `waiting` the share of the time without data."""
    p, optimizer = task.progress, task.optimizer
    parts = ", ".join(f"{name} {value:.4f}" for name, value in means.items() if name != "loss")
    return (
        f"batch {p.batches}  epoch {p.epochs:.2f}  loss {means.get('loss', math.nan):.4f} ({parts})  "
        f"rate {optimizer.param_groups[0]['lr']:.5f}  norm {optimizer.gradient_norm:.3g}  "
        f"clip {optimizer.clipped:.2f}  "
        f"{speed:.1f} {task.subject.unit}/s  {p.hours:.2f} h  data loading {100 * waiting:.0f} % of the time"
    )


def _number(name: str, value: float) -> str:
    return f"{value:.2f} %" if "WER" in name else f"{value:.4f}"
