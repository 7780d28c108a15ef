"""The progress bar of training: what a person at a terminal wants to see, drawn twice a second at most."""

from __future__ import annotations

import time
from typing import Any

import lightning.pytorch as pl
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn
from rich.progress import Task as Row
from rich.text import Text

from asr.training.task import Item, Task

__all__ = ["Bar", "time_left"]

_PERIOD = 0.5
_MEMORY = 0.95  # of the running rate, per batch


def time_left(share: float, first_share: float, seconds: float) -> float | None:
    """Seconds until the share is 1, from how long it took from `first_share` to here; None where that says nothing."""
    done = share - first_share
    return None if done <= 1e-6 or seconds <= 0 else (1 - share) * seconds / done


class _Left(ProgressColumn):
    def render(self, task: Row) -> Text:
        left = task.fields.get("left")
        if left is None:
            return Text("-:--:--", style="progress.remaining")
        minutes, seconds = divmod(int(left), 60)
        return Text(f"{minutes // 60}:{minutes % 60:02}:{seconds:02} left", style="progress.remaining")


class Bar(pl.Callback):
    """Share of the budget, batch and epoch, loss, best score on dev, speed, time left."""

    def __init__(self, console: Console) -> None:
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            BarColumn(),
            TextColumn(
                "batch {task.fields[batch]}  epoch {task.fields[epoch]:.1f}  loss {task.fields[loss]}"
            ),
            TextColumn("{task.fields[best]}", style="bold"),
            TextColumn("{task.fields[speed]}"),
            _Left(),
            console=console,
            auto_refresh=False,
            transient=False,
        )
        self._row = self._bar.add_task(
            "train", total=1.0, batch=0, epoch=0.0, loss="-", best="", speed="", left=None
        )
        self._start = self._last = self._drawn = 0.0
        self._first_share = 0.0
        self._speed = 0.0

    def on_train_start(self, trainer: pl.Trainer, task: Task) -> None:  # type: ignore[override]
        self._start = self._last = time.monotonic()
        self._first_share = task.share
        self._bar.start()

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: pl.Trainer, task: Task, outputs: Any, batch: Item, batch_idx: int
    ) -> None:
        now = time.monotonic()
        speed = task.subject.amount(batch.batch) * trainer.world_size / max(now - self._last, 1e-9)
        self._speed = _MEMORY * self._speed + (1 - _MEMORY) * speed if self._speed else speed
        self._last = now
        if now - self._drawn < _PERIOD and not trainer.should_stop:
            return
        self._drawn = now
        p = task.progress
        self._bar.update(
            self._row,
            completed=task.share,
            batch=p.batches,
            epoch=p.epochs,
            loss=f"{float(task.last_losses['loss']):.3f}" if task.last_losses else "-",
            best=task.subject.tell(p.best) if p.best < float("inf") else "",
            speed=f"{self._speed:.0f} {task.subject.unit}/s",
            left=time_left(task.share, self._first_share, now - self._start),
            refresh=True,
        )

    def on_train_end(self, trainer: pl.Trainer, task: Task) -> None:  # type: ignore[override]
        self._bar.stop()

    def on_exception(self, trainer: pl.Trainer, task: Task, exception: BaseException) -> None:  # type: ignore[override]
        self._bar.stop()
