"""A run's folder: checkpoints that are whole or absent, snapshots of the average, what its report is made of."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from asr.errors import DataError

if TYPE_CHECKING:
    import lightning.pytorch as pl
    from torch import Tensor

__all__ = ["RunFolder", "Snapshot", "write_whole", "writing"]


@dataclass(frozen=True)
class Snapshot:
    """The mean of the parameters over all batches up to `batches`, on disk."""

    path: Path
    batches: int

    def load(self) -> dict[str, Tensor]:
        return load_file(self.path)


@dataclass(frozen=True)
class RunFolder:
    """What a run leaves: `config.yaml`, `train.log`, `checkpoints/`, `report.html` and, at the end, `bundle/`."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        return self.checkpoints / "last.ckpt"

    @property
    def best(self) -> Path:
        return self.checkpoints / "best.ckpt"

    @property
    def bundle(self) -> Path:
        return self.path / "bundle"

    @property
    def before(self) -> Path:
        """Word error rates of the model that the run began with, by dev manifest."""
        return self.path / "before.json"

    @property
    def after(self) -> Path:
        """Which averages were tried, and the word error rates of the bundle by dev manifest."""
        return self.path / "after.json"

    @property
    def history(self) -> Path:
        """Curves and sessions, a line each."""
        return self.path / "history.jsonl"

    @property
    def pictures(self) -> Path:
        return self.path / "pictures"

    @property
    def heard(self) -> Path:
        """What was heard of each dev utterance at the last validation."""
        return self.path / "heard.json"

    @property
    def loggers(self) -> Path:
        """By which names services such as Weights & Biases know the run."""
        return self.path / "loggers.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def save(self, trainer: pl.Trainer, *, best: bool = False) -> None:
        """Write `last.ckpt`, and make it `best.ckpt` too. Whatever happens meanwhile, the names stand for whole files.

        Raises:
            DataError: the disk is full or cannot be written; what was there before stays.
        """
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        partial = self.checkpoints / "last.ckpt.partial"
        with writing(self.last, partial):
            trainer.save_checkpoint(partial)
            if trainer.is_global_zero:
                _settle(partial, self.last)
                if best:
                    _settle(_twin(self.last, self.checkpoints / "best.ckpt.partial"), self.best)
        trainer.strategy.barrier("checkpoint")

    def add_snapshot(self, mean: Mapping[str, Tensor], batches: int, *, keep: int) -> None:
        """Write the running average over so many batches, then thin out old ones to `keep`: the further back, the
        sparser."""
        if batches == 0:
            return
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        path = self.checkpoints / f"average-{batches:09d}.safetensors"
        partial = path.with_suffix(".partial")
        tensors = {name: value.float().contiguous().cpu() for name, value in mean.items()}
        with writing(path, partial):
            save_file(tensors, partial, {"batches": str(batches)})
            _settle(partial, path)
        for snapshot in thin(self.snapshots(), keep):
            snapshot.path.unlink()

    def snapshots(self) -> list[Snapshot]:
        """Oldest first."""
        found = []
        for path in sorted(self.checkpoints.glob("average-*.safetensors")):
            with safe_open(path, "pt") as file:
                found.append(Snapshot(path, int(file.metadata()["batches"])))
        return found

    def load(self, path: Path) -> dict[str, object]:
        """A checkpoint's contents, tensors and plain values only.

        Raises:
            DataError: it is missing or damaged.
        """
        try:
            checkpoint: dict[str, object] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged zip, pickle or tensor each has its own exception
            raise DataError(
                f"the checkpoint {path} cannot be read ({error}); remove it to start over"
            ) from error
        return checkpoint


@contextlib.contextmanager
def writing(path: Path, partial: Path | None = None) -> Iterator[None]:
    """What goes wrong while a file is written is told by its name, and what there is of it by then, `partial`, removed.

    Raises:
        DataError: the disk is full or cannot be written.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors wrap the disk's error
        if partial is not None:
            partial.unlink(missing_ok=True)
        free = shutil.disk_usage(path.parent).free / 1e9
        raise DataError(
            f"{path} cannot be written ({error}); {free:.1f} GB are free there. Make room and run the same command "
            "again: training goes on from the last good checkpoint"
        ) from error


def write_whole(path: Path, contents: str | bytes) -> None:
    """Write a file of text or bytes, whole or not at all. Raises DataError: the disk is full or cannot be written."""
    partial = path.with_name(f"{path.name}.partial")
    with writing(path, partial):
        path.parent.mkdir(exist_ok=True)
        partial.write_bytes(contents.encode() if isinstance(contents, str) else contents)
        os.replace(partial, path)


def thin(snapshots: list[Snapshot], keep: int) -> list[Snapshot]:
    """Which snapshots to remove so that `keep` stay: those whose neighbours are near for their age; never the last."""
    stay, out = list(snapshots), []
    while len(stay) > max(keep, 2):
        batches = [0] + [s.batches for s in stay]
        worth = [(batches[i + 1] - batches[i - 1]) / (batches[-1] - batches[i]) for i in range(1, len(stay))]
        out.append(stay.pop(worth.index(min(worth))))
    return out


def _settle(partial: Path, path: Path) -> None:
    """Give a file its name once its bytes are on the disk."""
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)


def _twin(path: Path, other: Path) -> Path:
    other.unlink(missing_ok=True)
    try:
        os.link(path, other)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, other)
    return other
