"""`train`: a recipe's YAML in, a bundle out."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import Logger
from rich.console import Console
from rich.logging import RichHandler

from asr import config as configuration
from asr.dataset import DataConfig, Loader, check
from asr.paths import preset
from asr.training import loggers
from asr.training.bar import Bar
from asr.training.callbacks import Clock, Keeper, Logs, Validation
from asr.training.checkpoints import RunFolder, write_whole
from asr.training.finish import average, by_domain
from asr.training.history import History, Session
from asr.training.processes import rank
from asr.training.recipe import (
    Recipe,
    RecipeConfig,
    build,
    dev_loader,
    load_recipe,
    subject_of,
    train_loader,
)  # fmt: skip
from asr.training.report import write_report
from asr.training.task import Task, stream
from asr.training.trainer import make_trainer, precision, quiet, stopping

__all__ = ["fit", "train"]

log = logging.getLogger("asr.training")


def train(
    config_path: str | PathLike[str],
    overrides: Sequence[str] = (),
    *,
    hours: float | None = None,
    out: str | PathLike[str] | None = None,
    start: str | PathLike[str] | None = None,
    presets: Sequence[str] = (),
) -> Path:
    """Train a recipe to the end of its budget and return the path of the bundle.

    Stopped before by Ctrl-C or SIGTERM it returns the path of the run's folder, whose checkpoint is up to date.
    A run that was stopped (by a signal, an error or a power cut) goes on from its last checkpoint when the same
    command is given again. `hours` overrides `train.hours`. `out`, by default `runs/NAME` after the recipe, takes
    checkpoints, logs and `bundle/`. `presets`, files or names of recipes/presets/, change the recipe. `start` is a
    bundle whose weights and tokenizer the run begins with.

    Raises:
        ConfigError: the recipe is wrong, `out` holds a run of another model, or `start` is another model.
        DataError: bad data, a loss or gradient that is not finite, a full disk.
    """
    over = [preset(name) for name in presets]
    recipe = load_recipe(config_path, over=over, overrides=overrides)
    if hours is not None:
        recipe = replace(recipe, train=replace(recipe.train, hours=hours))
    folder = RunFolder(Path(out) if out is not None else default_folder(Path(config_path), over))
    folder.path.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    with _logging(folder, console), quiet():
        torch.set_num_threads(recipe.train.threads or len(os.sched_getaffinity(0)))
        task = fit(
            recipe, folder, console, start=None if start is None else Path(start), place=Path(config_path)
        )
        if task.share < 1.0:
            log.info("stopped at batch %d; the same command goes on from there", task.progress.batches)
            return folder.path
        return folder.bundle if rank() else average(folder.path)


def default_folder(config_path: Path, presets: Sequence[Path] = ()) -> Path:
    """recipes/an4/train.yaml -> runs/an4, recipes/an4/large.yaml -> runs/an4-large; a preset adds its name."""
    stems = [path.stem for path in (config_path, *presets)]
    return Path("runs") / "-".join([config_path.absolute().parent.name, *(s for s in stems if s != "train")])


def fit(
    recipe: Recipe, folder: RunFolder, console: Console, *, place: Path, start: Path | None = None
) -> Task:
    """Everything up to the last batch; leaves checkpoints in the folder. `place` is the recipe's."""
    c = recipe.train
    loggers.require(c.loggers)
    bad = _check_data(recipe.data) if isinstance(recipe, RecipeConfig) else frozenset[tuple[str, int]]()
    model = build(recipe, folder, leave_out=bad, start=start)
    loader = train_loader(recipe, model.tokenizer, leave_out=bad)
    task = Task(subject_of(recipe, model), c, run_dir=folder.path)
    task.progress.trained = start is not None
    if start is not None and not folder.last.exists() and not rank():
        model.eval()
        before = by_domain(recipe, task.subject)
        write_whole(folder.before, json.dumps(before, indent=1) + "\n")
        for path, rate in before.items():
            log.info("%s: %s before", path, task.subject.tell(rate))
        model.train()
    if folder.last.exists():
        checkpoint = folder.load(folder.last)
        task.on_load_checkpoint(checkpoint)
        if task.share >= 1.0:
            log.info("the budget of %s is used up; only the bundle is written", folder.path)
            return task
        if task.progress.data:
            loader.load_state_dict(task.progress.data)
        log.info(
            "going on from %s, batch %d, epoch %.2f", folder.last, task.progress.batches, task.progress.epochs
        )
        del checkpoint
    parameters = sum(p.numel() for p in model.parameters())
    log.info(
        "%.1f M parameters, %s in %d batches an epoch, %s, %d threads",
        parameters / 1e6, loader.size, len(loader), precision(c.precision), torch.get_num_threads(),
    )  # fmt: skip
    told = _told(recipe, folder, place, batches=task.progress.batches)
    clock, keeper = Clock(), Keeper(folder)
    callbacks: list[pl.Callback] = [clock]
    if recipe.data.dev:
        callbacks.append(Validation(dev_loader(recipe, model.tokenizer), keeper))
    else:
        log.warning("data.dev is empty: no validation, and the last average becomes the bundle")
    callbacks += [keeper, Logs()]
    if console.is_terminal:
        callbacks.append(Bar(console))
    trainer = make_trainer(c, folder, callbacks, told)
    with stopping(clock):
        trainer.fit(
            task, stream(loader), ckpt_path=folder.last if folder.last.exists() else None, weights_only=True
        )
    loggers.end(told)
    if not rank():
        write_report(folder)
    if isinstance(loader, Loader):
        _tell_skipped(loader, folder)
    return task


def _tell_skipped(loader: Loader, folder: RunFolder) -> None:
    """Name once more, and in a file, what could not be read."""
    if loader.skipped:
        path = folder.path / f"unreadable{f'-{rank()}' if rank() else ''}.txt"
        path.write_text("\n".join(loader.skipped) + "\n", encoding="utf-8")
        log.warning(
            "%d utterances could not be read and were left out; %s names them", len(loader.skipped), path
        )


def _check_data(data: DataConfig) -> frozenset[tuple[str, int]]:
    """Validate all manifests and log what is in them; the lines to leave out."""
    bad: frozenset[tuple[str, int]] = frozenset()
    for paths in (data.train, data.dev):
        if paths:
            report = check(paths, bad_share=data.bad_share)
            log.info("%s", report.to_text(most=20))
            bad |= report.bad
    return bad


def _told(recipe: Recipe, folder: RunFolder, place: Path, *, batches: int) -> list[Logger]:
    """Who is told of the run: its history, of which its report is made, and what the recipe names. All know of this
    session, and of the configuration."""
    if rank():
        return loggers.make(recipe.train.loggers, folder, batches=batches)
    history = History(folder)
    history.begin(Session.now(batches, place))
    told = [history, *loggers.make(recipe.train.loggers, folder, batches=batches)]
    loggers.begin(told, configuration.to_dict(recipe))
    return told


@contextlib.contextmanager
def _logging(folder: RunFolder, console: Console) -> Iterator[None]:
    """Log lines go to `train.log`, and to the terminal above the bar, or to stderr where there is none.

    Of several processes the first one tells; the others only what goes wrong.
    """
    if rank():
        yield
        return
    logger = logging.getLogger("asr")
    file = logging.FileHandler(folder.path / "train.log", encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    screen: logging.Handler
    if console.is_terminal:
        screen = RichHandler(
            console=console, show_path=False, show_level=False, markup=False, highlighter=None
        )
    else:
        screen = logging.StreamHandler()
        screen.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    level = logger.level
    logger.setLevel(logging.INFO)
    for handler in (file, screen):
        logger.addHandler(handler)
    try:
        yield
    except Exception as error:
        log.error("%s", error)
        raise
    finally:
        logger.setLevel(level)
        for handler in (file, screen):
            logger.removeHandler(handler)
            handler.close()
