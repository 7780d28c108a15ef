"""One training task for every model: what happens with a batch, and what a checkpoint remembers."""

from __future__ import annotations

import json
import logging
import math
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from asr.audio import SAMPLE_RATE
from asr.dataset import Batch, Loader
from asr.dataset.texts import Texts
from asr.encoders.regularizers import measure_as_often, measured_how_often
from asr.errors import DataError
from asr.training.adamw import AdamW
from asr.training.average import RunningAverage
from asr.training.blockwise import checkpoint_activations
from asr.training.config import TrainConfig
from asr.training.memory import enough_memory
from asr.training.optimizer import NonFiniteGradient, ScaledAdam
from asr.training.schedule import eden, eden_of_budget, linear
from asr.training.sharding import whole
from asr.training.subject import Subject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


log = logging.getLogger("asr.training")

SCHEDULES_OVER = 10**9
"""A count of batches that is beyond the end of every module's schedule."""

__all__ = ["Item", "Progress", "Task", "stream"]


@dataclass
class Progress:
    """How far training is; saved with each checkpoint, and all that the next batch depends on beside the weights."""

    batches: int = 0  # optimizer steps
    items: int = 0  # batches of the data
    epochs: float = 0.0  # fractions counted
    seconds: float = 0.0  # of speech, over all epochs
    hours: float = 0.0  # of wall time, over all runs
    skipped: int = 0
    left_out: int = 0  # utterances, over all epochs, that no loss could be had of
    trained: bool = False  # the run began with a trained model
    best: float = math.inf  # the lowest score on dev: word error rate, or perplexity
    best_batches: int = 0
    data: dict[str, int] = field(default_factory=dict)  # where the loader stands


@dataclass(frozen=True)
class Item:
    """A batch, with where the loader stands once it is trained on."""

    batch: Batch
    position: dict[str, int]
    epochs: float
    waited: float = 0.0  # seconds until the batch was there
    unreadable: int = 0  # utterances so far


class _Skip(Exception):  # noqa: N818
    """The batch gives no gradient."""


def stream(loader: Loader | Texts) -> Iterator[Item]:
    """Epoch after epoch without end. Lightning reads ahead, so each batch carries its own position."""
    while True:
        found = False
        batches = iter(loader)
        start = time.perf_counter()
        while (batch := next(batches, None)) is not None:
            found, waited = True, time.perf_counter() - start
            position = loader.state_dict()
            unreadable = len(loader.skipped) if isinstance(loader, Loader) else 0
            yield Item(batch, position, loader.epoch + loader.batch / len(loader), waited, unreadable)
            start = time.perf_counter()
        if not found:
            raise DataError("an epoch gave no batch; see the log for the utterances that were left out")


class Task(pl.LightningModule):
    """What Lightning trains.

    The randomness of a batch (chunk, masks, dropout) follows from the seed and the number of the batch alone, so a run
    that was stopped and resumed goes on as if nothing had happened.
    """

    def __init__(self, subject: Subject, config: TrainConfig, *, run_dir: Path) -> None:
        super().__init__()
        self.subject = subject
        self.model = model = subject.model
        self.config = config
        self.run_dir = run_dir
        self.progress = Progress()
        self.average = RunningAverage(model)
        if config.activation_checkpointing:
            checkpoint_activations(subject.blocks())
        self.paused = 0.0  # seconds of this run that went into validation and saving
        self.last_losses: dict[str, Tensor] = {}  # of the last batch, each a mean over frames or tokens
        self._batch: Batch | None = None  # the one being trained on, for messages

    @property
    def share(self) -> float:
        """How much of the budget, epochs or hours, is used up: 0 to 1."""
        c = self.config
        return min(
            1.0, max(self.progress.epochs / c.epochs, self.progress.hours / c.hours if c.hours else 0.0)
        )

    @property
    def rate(self) -> float:
        """The learning rate of the next batch."""
        c, batch = self.config, self.progress.batches
        if c.clock == "linear":
            factor = linear(batch, self.share, warmup_batches=c.warmup_batches)
        elif c.clock == "budget":
            factor = eden_of_budget(batch, self.share, lr_share=c.lr_share, warmup_batches=c.warmup_batches)
        else:
            factor = eden(
                batch,
                self.progress.epochs,
                lr_batches=c.lr_batches,
                lr_epochs=c.lr_epochs,
                warmup_batches=c.warmup_batches,
            )
        return c.base_lr * factor

    @property
    def optimizer(self) -> ScaledAdam | AdamW:
        optimizer = self.trainer.optimizers[0]
        assert isinstance(optimizer, ScaledAdam | AdamW)
        return optimizer

    def configure_optimizers(self) -> ScaledAdam | AdamW:
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        match self.config.optimizer:
            case "scaled_adam":
                return ScaledAdam(trained, self.rate, clipping_scale=self.config.clip)
            case "adamw":
                return AdamW(trained, self.rate, clip=self.config.clip)

    def transfer_batch_to_device(self, batch: Item, device: torch.device, dataloader_idx: int) -> Item:
        return replace(batch, batch=batch.batch.to(device))

    def on_train_batch_start(self, batch: Item, batch_idx: int) -> None:
        self._batch = batch.batch
        seed = random.Random(f"{self.config.seed} {self.progress.items}").getrandbits(32)
        # The chunk is the same on all ranks, so that none waits for another; masks and dropout differ.
        self.subject.draw(random.Random(seed))
        random.seed(seed + self.global_rank)
        np.random.seed((seed + self.global_rank) % (1 << 32))  # noqa: NPY002  (for libraries that use it)
        torch.manual_seed(seed + self.global_rank)
        count = self.progress.batches
        if self.progress.trained:
            count = SCHEDULES_OVER  # high dropout and skipped layers would undo what the model knows
        elif self.config.scheduled_batch_seconds:
            count = int(self.progress.seconds / self.config.scheduled_batch_seconds)
        for module in self.subject.scheduled():
            if hasattr(module, "set_batch_count"):
                module.set_batch_count(count)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate

    def training_step(self, batch: Item, batch_idx: int) -> Tensor | None:
        with enough_memory(batch.batch):
            return self.loss(batch)

    def backward(self, loss: Tensor, *args: Any, **options: Any) -> None:
        assert self._batch is not None
        with enough_memory(self._batch):
            super().backward(loss, *args, **options)

    def loss(self, batch: Item) -> Tensor | None:
        """Of a batch; nothing where it gives no gradient."""
        data = self.subject.trainable(batch.batch)
        self.progress.left_out += len(batch.batch.ids) - (0 if data is None else len(data.ids))
        if data is None:
            return None if self.trainer.world_size == 1 else self.no_loss(batch.batch)
        by_name, sizes = self.subject.losses(data, epochs=self.progress.epochs)
        frames = self.mean_over_processes(sizes.sum())
        self.last_losses = {name: loss.detach().sum() / frames for name, loss in by_name.items()}
        total = self.weigh(by_name).sum() / frames
        self.last_losses["loss"] = total.detach()
        if not torch.isfinite(total):
            if (
                self.trainer.world_size > 1
            ):  # all processes must stop or skip: the gradient will tell them all
                return total * math.nan
            self.not_finite("loss")
            return None
        return total

    def mean_over_processes(self, frames: Tensor) -> Tensor:
        """So that the mean of the processes' gradients is that of one process with all their utterances."""
        if self.trainer.world_size == 1:
            return frames
        return self.trainer.strategy.reduce(frames.float(), reduce_op="mean")

    def no_loss(self, batch: Batch) -> Tensor:
        """Of a process whose batch holds nothing to train on: the others wait for its gradient, which is zero, and
        with FSDP for its way through each block, first of all."""
        one = replace(batch, tokens=batch.tokens[:, :1], token_lens=batch.token_lens.clamp(max=1))
        by_name, _ = self.subject.losses(one, epochs=self.progress.epochs)
        self.mean_over_processes(torch.zeros((), device=self.device))
        return 0.0 * self.weigh(by_name).sum()

    def weigh(self, by_name: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of the losses, (B,): "head.part" weighs as it says times what "head" weighs."""
        c = self.config
        weights = {"ctc.consistency": c.consistency.weight if c.consistency else 0.0} | c.loss_weights
        total: Tensor | None = None
        for name, loss in by_name.items():
            head = name.partition(".")[0]
            weight = weights.get(head, 1.0) * (weights.get(name, 1.0) if name != head else 1.0)
            total = weight * loss if total is None else total + weight * loss
        assert total is not None
        return total

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        def closure() -> Any:
            assert optimizer_closure is not None
            loss = optimizer_closure()
            if loss is None:
                raise _Skip
            return loss

        try:
            optimizer.step(closure=closure)
        except _Skip:
            return
        except NonFiniteGradient:
            self.not_finite("gradient")
            return
        self.progress.batches += 1
        if self.progress.batches % self.config.average_batches == 0:
            self.average.update(self.model, self.progress.batches)

    def count(self, item: Item, hours: float, seconds: float) -> None:
        """Note that a batch of `seconds` of speech has been trained on, `hours` after the last."""
        self.progress.items += 1
        self.progress.epochs = item.epochs
        self.progress.data = item.position
        self.progress.seconds += seconds
        self.progress.hours += hours

    def not_finite(self, what: str) -> None:
        """Write down the batch at hand, its audio and the weights; skip it, or stop.

        Raises:
            DataError: more such batches than the configuration lets pass, with the file that names the utterances.
        """
        assert self._batch is not None
        self.progress.skipped += 1
        several = f"-{self.global_rank}" if self.trainer.world_size > 1 else ""
        path = self.run_dir / f"nonfinite-{self.progress.batches}-{self.progress.skipped}{several}.json"
        record = {
            "what": what,
            "batches": self.progress.batches,
            "epochs": self.progress.epochs,
            "learning_rate": self.rate,
            **self.subject.notes(),
            "losses": {name: float(loss) for name, loss in self.last_losses.items()},
            "utterances": list(self._batch.ids),
            "seconds": [round(n / SAMPLE_RATE, 3) for n in self._batch.sample_lens.tolist()],
            "texts": list(self._batch.texts),
        }
        path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        names = ("samples", "sample_lens", "tokens", "token_lens")
        tensors = {name: getattr(self._batch, name) for name in names}
        weights = {f"model.{name}": whole(value) for name, value in self.model.state_dict().items()}
        if not self.global_rank:
            tensors |= weights
        everything = path.with_suffix(".safetensors")
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, everything)
        if self.progress.skipped > self.config.skip_nonfinite:
            raise DataError(
                f"the {what} is not finite at batch {self.progress.batches}; its {len(self._batch.ids)} utterances are "
                f"named in {path}, with audio and weights beside it. Look at them (`asr prepare` validates), lower "
                "train.base_lr, or let training pass over such batches with train.skip_nonfinite"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["progress"] = vars(self.progress).copy()
        checkpoint["average"] = self.average.state_dict()
        checkpoint["measured"] = measured_how_often(self.model)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.progress = Progress(**checkpoint["progress"])
        self.average.load_state_dict(checkpoint["average"])
        measure_as_often(self.model, checkpoint.get("measured", {}))
