"""One process of several that train a small model: gradients and parameters for a test to compare.

    torchrun --nproc_per_node 2 -m tests.training.parity FOLDER

Of a batch of four utterances each process takes its share. All that is random is off, so that one process with all four
is the same.
"""

from __future__ import annotations

import faulthandler
import shutil
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from asr.dataset import Batch
from asr.model import Model
from asr.training.callbacks import Clock, Keeper, Validation
from asr.training.checkpoints import RunFolder
from asr.training.config import TrainConfig
from asr.training.processes import rank, world_size
from asr.training.speech import Speech
from asr.training.task import Task, stream
from asr.training.train import train
from asr.training.trainer import make_trainer, quiet
from tests.models import small_model
from tests.training.fakes import FakeLoader, batch_of

SCENARIOS = {
    "ddp": {"strategy": "ddp", "optimizer": "adamw", "base_lr": 1e-3},
    "fsdp": {"strategy": "fsdp", "optimizer": "adamw", "base_lr": 1e-3, "validate_batches": 4},
    "fsdp scaled": {
        "strategy": "fsdp",
        "optimizer": "scaled_adam",
        "base_lr": 1e-3,
        "activation_checkpointing": True,
    },
}
BATCHES, STOP = 6, 5
ROOT = Path(__file__).parents[2]
RECIPE = [
    "data.max_duration=20", "data.dev=[]", "train.epochs=0.1", "train.hours=null", "train.threads=1", "train.strategy=fsdp",
]  # fmt: skip
"""Of the embedded corpus, the whole way to a bundle."""


class Still(pl.Callback):
    """Nothing is random, after validation neither."""

    def on_train_batch_start(self, trainer: Any, task: Task, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        task.model.eval()


class Shares(FakeLoader):
    """This process' utterances of each batch; those of the last process cannot be trained on in the third one."""

    def __iter__(self) -> Iterator[Batch]:
        for batch in super().__iter__():
            four = batch_of([*batch.texts, "aabb"], seed=self.batch)
            if self.epoch == 0 and self.batch == 3:
                tokens, lens = torch.nn.functional.pad(four.tokens, (0, 96), value=1), four.token_lens.clone()
                lens[1::2] = 100
                four = replace(four, tokens=tokens, token_lens=lens)
            mine = slice(rank(), None, world_size())
            parts = {f.name: getattr(four, f.name)[mine] for f in fields(four)}
            yield Batch(**parts)


def model_of(name: str) -> Model:
    return small_model("zipformer" if "scaled" in name else "conformer")


def fit(name: str, path: Path, *, batches: int) -> dict[str, Any]:
    """Train up to a number of batches, from a checkpoint if there is one; what was seen on the way."""
    config = TrainConfig(
        epochs=batches / 4, warmup_batches=1, lr_epochs=1e6, threads=1, precision="32", average_batches=1,
        save_minutes=1e9,
        **{"validate_batches": 1000} | SCENARIOS[name],
    )  # fmt: skip
    path.mkdir(exist_ok=True)
    (path / "config.yaml").touch()  # which a run's report shows
    folder, loader = RunFolder(path), Shares()
    task = Task(Speech(model_of(name)), config, run_dir=path)
    gradients: list[dict[str, Tensor]] = []

    def keep(*_: Any) -> None:
        found = ((n, p.grad) for n, p in task.model.named_parameters() if p.grad is not None)
        gradients.append({n: everything(g) for n, g in found})

    task.on_before_optimizer_step = keep  # type: ignore[method-assign]
    if folder.last.exists():
        progress = folder.load(folder.last)["progress"]
        loader.load_state_dict(progress["data"])  # type: ignore[index]
    keeper = Keeper(folder)
    callbacks = [Still(), Clock(), Validation([batch_of(["abca", "dd"])], keeper), keeper]
    with quiet():
        trainer = make_trainer(config, folder, callbacks)
        resume = folder.last if folder.last.exists() else None
        trainer.fit(task, stream(loader), ckpt_path=resume, weights_only=True)
    parameters = {n: everything(p) for n, p in task.model.named_parameters()}
    return {"gradients": gradients, "parameters": parameters, "best": task.progress.best}


def everything(x: Tensor) -> Tensor:
    return x.full_tensor().detach() if isinstance(x, DTensor) else x.detach().clone()


def main(out: Path) -> None:
    faulthandler.dump_traceback_later(240, exit=True)  # processes that wait for each other
    torch.set_num_threads(1)
    for name in SCENARIOS:
        found = {"straight": fit(name, out / name, batches=BATCHES)}
        if world_size() > 1 and name != "ddp":
            fit(name, out / f"{name} stopped", batches=STOP)
            if not rank():
                shutil.copytree(out / f"{name} stopped", out / f"{name} here")
            found["resumed"] = fit(name, out / f"{name} stopped", batches=BATCHES)
        torch.save(found, out / f"{name} {rank()}.pt")
    if world_size() > 1:
        train(ROOT / "recipes/mini/train.yaml", RECIPE, out=out / "recipe")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
