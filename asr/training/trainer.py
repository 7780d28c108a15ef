"""Lightning's trainer as Rill uses it: devices, processes and precision are Lightning's, the rest is in callbacks."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy

from asr.native.memory import keep_freed_memory
from asr.training.callbacks import Clock
from asr.training.checkpoints import RunFolder
from asr.training.config import TrainConfig
from asr.training.processes import local_world_size, world_size
from asr.training.sharding import FullySharded

__all__ = ["make_trainer", "precision", "quiet", "stopping"]

log = logging.getLogger("asr.training")


def make_trainer(
    config: TrainConfig, folder: RunFolder, callbacks: list[pl.Callback], loggers: Sequence[Logger] = ()
) -> pl.Trainer:
    """Lightning for devices, processes, precision, accumulation; what happens around the batches is in `callbacks`."""
    keep_freed_memory()
    return pl.Trainer(
        accelerator="cuda" if torch.cuda.is_available() else "cpu",
        devices=local_world_size(),
        num_nodes=world_size() // local_world_size(),
        strategy=_strategy(config) if world_size() > 1 else "auto",
        max_epochs=-1,  # the data never ends; Clock stops
        precision=precision(config.precision),
        accumulate_grad_batches=config.accumulate,
        callbacks=callbacks,
        logger=list(loggers),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        default_root_dir=folder.path,
    )


def _strategy(config: TrainConfig) -> DDPStrategy:
    if config.strategy == "fsdp":
        return FullySharded()
    # Buffers are tables that each process grows by the lengths it sees; sizes that differ end a broadcast.
    return DDPStrategy(broadcast_buffers=False)


def precision(wanted: Literal["auto", "32", "bf16"]) -> Literal["32-true", "bf16-mixed"]:
    """bf16 pays where hardware multiplies it: GPUs since Ampere, CPUs with AMX. Elsewhere it is slower than float32."""
    if wanted == "auto":
        if torch.cuda.is_available():
            wanted = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "32"
        else:
            wanted = "bf16" if torch.cpu._is_amx_tile_supported() else "32"
    return "bf16-mixed" if wanted == "bf16" else "32-true"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without Lightning's advertisements, and its advice on loaders that it does not know."""
    lightning = logging.getLogger("lightning.pytorch")
    level = lightning.level
    lightning.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            # Nothing is done in place with what a block returns.
            warnings.filterwarnings("ignore", message="FSDP2-wrapped module", category=UserWarning)
            # Lightning's use of torch's pytree, reported as typing_extensions's.
            warnings.filterwarnings("ignore", message=r".*LeafSpec.*deprecated", category=FutureWarning)
            yield
    finally:
        lightning.setLevel(level)


@contextlib.contextmanager
def stopping(clock: Clock) -> Iterator[None]:
    """Ctrl-C and SIGTERM end training after the batch at hand, with a checkpoint; a second one ends it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}

    def handle(_number: int, _frame: FrameType | None) -> None:
        log.info("stopping after this batch; again, to stop at once")
        clock.stop = True
        for one in numbers:
            signal.signal(one, before[one])

    for number in numbers:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, before[number])
