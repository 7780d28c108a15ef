from __future__ import annotations

import json
import math
from itertools import islice
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from safetensors.torch import load_file

from asr.dataset.augment import SpecAugment, SpecAugmentConfig
from asr.errors import DataError
from asr.training.callbacks import Clock, Keeper, Logs, Validation
from asr.training.checkpoints import RunFolder
from asr.training.config import ConsistencyConfig, TrainConfig
from asr.training.losses import losses
from asr.training.speech import Speech
from asr.training.task import Task, stream
from asr.training.trainer import make_trainer, precision, quiet
from tests.models import small_model
from tests.training.fakes import FakeLoader, FakeModel, batch_of


class Record(pl.Callback):
    def __init__(self, stop_after: int | None = None) -> None:
        self.losses: list[float] = []
        self.stop_after = stop_after

    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx):
        self.losses.append(task.last_losses["loss"].item())
        if len(self.losses) == self.stop_after:
            trainer.should_stop = True


def run(
    path: Path, config: TrainConfig, *, stop_after: int | None = None, validate: bool = False
) -> tuple[list[float], Task]:
    """What `fit` does, with a model and a corpus that are small."""
    torch.manual_seed(0)
    folder = RunFolder(path)
    path.mkdir(exist_ok=True)
    (path / "config.yaml").write_text("model: {}\n")
    task = Task(Speech(FakeModel(), augment=SpecAugment()), config, run_dir=path)
    loader = FakeLoader()
    if folder.last.exists():
        task.on_load_checkpoint(folder.load(folder.last))
        loader.load_state_dict(task.progress.data)
    record = Record(stop_after)
    keeper = Keeper(folder)
    callbacks: list[pl.Callback] = [Clock(), record]
    if validate:
        callbacks.append(Validation([batch_of(["abca", "dd"])], keeper))
    resume = folder.last if folder.last.exists() else None
    with quiet():
        trainer = make_trainer(config, folder, [*callbacks, keeper, Logs()])
        trainer.fit(task, stream(loader), ckpt_path=resume, weights_only=True)
    return record.losses, task


def settings(**changes: object) -> TrainConfig:
    return TrainConfig(
        **{"epochs": 5.0, "warmup_batches": 5.0, "average_batches": 1, "threads": 1, **changes}
    )


def test_a_resumed_run_is_the_run_that_was_not_stopped(tmp_path: Path):
    whole, task = run(tmp_path / "whole", settings())
    assert len(whole) == 20
    assert task.progress.batches == 20
    assert task.progress.epochs == 5.0
    first, _ = run(tmp_path / "parts", settings(), stop_after=7)  # within an epoch
    second, _ = run(tmp_path / "parts", settings(), stop_after=5)  # at an epoch's end
    third, resumed = run(tmp_path / "parts", settings())
    assert first + second + third == whole
    assert resumed.progress.batches == 20
    for a, b in zip(task.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert resumed.average.batches == task.average.batches == 20
    for name, mean in task.average.mean.items():
        assert torch.equal(mean, resumed.average.mean[name])


def test_accumulation_counts_steps(tmp_path: Path):
    losses, task = run(tmp_path, settings(accumulate=2))
    assert len(losses) == 20
    assert task.progress.batches == 10
    assert task.progress.items == 20


def test_it_learns_and_validates(tmp_path: Path):
    losses, task = run(tmp_path, settings(epochs=60.0, validate_batches=60), validate=True)
    assert sum(losses[-8:]) < 0.5 * sum(losses[:8])
    assert task.progress.best <= 0.5  # of two words
    folder = RunFolder(tmp_path)
    assert folder.best.exists()
    assert [s.batches for s in folder.snapshots()] == [60, 120, 180, 240]
    assert not list(tmp_path.rglob("*.partial"))


def test_the_time_is_up(tmp_path: Path):
    losses, task = run(tmp_path, settings(epochs=1e6, hours=0.3 / 3600))
    assert task.share == 1.0
    assert 0.3 / 3600 <= task.progress.hours < 5 / 3600
    again, _ = run(tmp_path, settings(epochs=1e6, hours=0.3 / 3600))
    assert len(again) == 1  # `fit` asks for the share before it starts at all
    assert losses


def test_schedules_of_modules_count_batches_or_speech(tmp_path: Path):
    _, task = run(tmp_path / "a", settings(epochs=1.0))
    assert task.model.encoder.counts == [0, 1, 2, 3]
    _, task = run(tmp_path / "b", settings(epochs=1.0, scheduled_batch_seconds=1.0))
    assert task.model.encoder.counts == [0, 2, 4, 6]  # 2.2 s each or so


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_batch_that_is_not_finite_is_named(tmp_path: Path, where: str):
    class Poisoned(pl.Callback):
        def on_train_batch_start(self, trainer, task, batch, batch_idx):
            if task.progress.items == 5 and where == "loss":
                task.model.heads["ctc"].poison = math.nan
            elif task.progress.items == 5:
                task.model.encoder.layers[0].weight.register_hook(lambda g: g * math.inf)

    def fit(config: TrainConfig) -> Task:
        folder = RunFolder(tmp_path)
        task = Task(Speech(FakeModel()), config, run_dir=tmp_path)
        with quiet():
            trainer = make_trainer(config, folder, [Clock(), Poisoned(), Logs()])
            trainer.fit(task, stream(FakeLoader()))
        return task

    with pytest.raises(DataError, match="not finite at batch 5; its 3 utterances are named in") as caught:
        fit(settings())
    path = next(tmp_path.glob("nonfinite-*.json"))
    assert str(path) in str(caught.value)
    record = json.loads(path.read_text())
    assert record["what"] == where
    assert record["utterances"] == [f"utterance-110-{i}" for i in range(3)]
    assert len(record["texts"]) == 3
    kept = load_file(path.with_suffix(".safetensors"))
    sixth = list(islice(stream(FakeLoader()), 6))[5].batch
    assert kept["samples"].shape[0] == kept["token_lens"].shape[0] == 3
    assert torch.equal(kept["samples"], sixth.samples) and torch.equal(kept["tokens"], sixth.tokens)
    weights = {n.removeprefix("model."): v for n, v in kept.items() if n.startswith("model.")}
    FakeModel().load_state_dict(weights)  # all of them
    assert record["chunk_frames"] in (0, 4)

    with pytest.raises(DataError, match="its 3 utterances"):
        fit(settings(skip_nonfinite=4))
    assert len(list(tmp_path.glob("nonfinite-*.json"))) == 5


def test_texts_longer_than_their_audio_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    torch.manual_seed(0)
    task = Task(Speech(FakeModel()), settings(), run_dir=tmp_path)
    batch = batch_of(["abc", "ab"])
    crowded = batch.tokens.repeat(1, 6)
    bad = type(batch)(
        batch.ids, batch.samples, batch.sample_lens, crowded, torch.tensor([18, 2]), ("abc" * 6, "ab")
    )
    kept = task.subject.trainable(bad)
    assert kept is not None
    assert kept.ids == ("utterance-0-1",)
    assert "left out utterance-0-0: 18 tokens in 15 frames" in caplog.text
    assert task.subject.trainable(batch) is batch


def test_losses_are_weighed_by_head_and_part(tmp_path: Path):
    consistent = settings(loss_weights={"ctc": 0.5}, consistency=ConsistencyConfig(weight=0.3))
    task = Task(Speech(FakeModel()), consistent, run_dir=tmp_path)
    assert task.weigh({"ctc": torch.ones(1), "ctc.consistency": torch.ones(1)}) == 0.5 + 0.5 * 0.3
    weights = {"ctc": 0.5, "transducer": 2.0, "transducer.simple": 0.25}
    task = Task(Speech(FakeModel()), settings(loss_weights=weights), run_dir=tmp_path)
    found = {"ctc": torch.ones(2), "transducer.simple": torch.ones(2), "transducer.pruned": torch.ones(2)}
    assert task.weigh(found).tolist() == [0.5 + 0.5 + 2.0] * 2


def test_losses_of_two_views_are_means_of_both():
    model = small_model("conformer")
    chunk, batch = model.encoder.chunk_sizes[0], batch_of(["abcdabcd", "ab"])
    one, lens = losses(model, batch, chunk)
    unmasked = SpecAugment(SpecAugmentConfig(probability=0.0))
    two, lens_two = losses(model, batch, chunk, augment=unmasked, views=2)
    assert torch.equal(lens, lens_two)
    assert set(two) == {*one, "ctc.consistency"}
    for name, loss in one.items():
        torch.testing.assert_close(two[name], loss)
    torch.testing.assert_close(two["ctc.consistency"], torch.zeros(2), atol=1e-6, rtol=0)

    masked = SpecAugment(SpecAugmentConfig(probability=1.0, time_share=0.5))
    torch.manual_seed(1)
    two, _ = losses(model, batch, chunk, augment=masked, views=2)
    assert (two["ctc.consistency"] > 0).all()
    torch.manual_seed(1)
    samples, sample_lens = model.flushed(batch.samples, batch.sample_lens)
    x, x_lens = model.features(samples), -(-sample_lens // 160)
    views = masked(x, x_lens, views=2).chunk(2)
    by_hand = []
    for view in views:
        y, y_lens = model.encoder(view, x_lens, chunk)
        by_hand.append(model.heads["ctc"].loss(y, y_lens, batch.tokens, batch.token_lens)["ctc"])
    torch.testing.assert_close(two["ctc"], (by_hand[0] + by_hand[1]) / 2)


def test_losses_do_not_depend_on_padding():
    torch.manual_seed(0)
    model = FakeModel().eval()
    both, lens = losses(model, batch_of(["abcdabcd", "ab"]), model.encoder.chunk_sizes[1])
    alone, lens_alone = losses(model, batch_of(["ab"], seed=1), model.encoder.chunk_sizes[1])
    assert lens[1] == lens_alone[0]
    torch.testing.assert_close(both["ctc"][1], alone["ctc"][0])


def test_precision():
    assert precision("32") == "32-true"
    assert precision("bf16") == "bf16-mixed"
    assert precision("auto") in ("32-true", "bf16-mixed")
