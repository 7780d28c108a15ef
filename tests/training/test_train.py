"""The whole way on a corpus of tones: YAML, validation of the data, tokenizer, batches, checkpoints, average, bundle."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lhotse import CutSet

from asr import bundle
from asr.encoders import Zipformer
from asr.errors import ConfigError, DataError
from asr.training.checkpoints import RunFolder
from asr.training.finish import average
from asr.training.task import SCHEDULES_OVER
from asr.training.train import train


def test_train(recipe: Path, tmp_path: Path):
    out = tmp_path / "run"
    path = train(recipe, ["train.epochs=2"], out=out)
    assert path == out / "bundle"
    model = bundle.load(path)
    assert "".join(sorted(model.tokenizer.decode([t]) for t in range(1, model.tokenizer.size))) == "abcd"
    text = (out / "train.log").read_text()
    for part in (
        "6 utterances",
        "4 characters",
        "batch 1 ",
        "dev at batch",
        "WER transducer",
        "the bundle gets",
        "% of the time",
    ):
        assert part in text
    assert list((out / "tensorboard").iterdir())
    folder = RunFolder(out)
    before = folder.snapshots()[-1].batches

    # More of the same run.
    assert train(recipe, out=out) == path
    assert "going on from" in (out / "train.log").read_text()
    after = folder.snapshots()[-1].batches
    assert after == before * 3 // 2

    # No epoch is left: only the bundle is made.
    (path / "model.safetensors").unlink()
    assert train(recipe, out=out) == path
    assert bundle.load(path)
    assert folder.snapshots()[-1].batches == after

    with pytest.raises(ConfigError, match="holds a run with another model"):
        train(recipe, ["model.encoder.dims=[32, 48]"], out=out)

    # Averages over spans.
    late = folder.snapshots()[-1]
    early = folder.snapshots()[-2]
    chosen = bundle.load(average(out, span=(early.batches, late.batches), out=tmp_path / "span"))
    for name, parameter in chosen.named_parameters():
        a, b = early.batches, late.batches
        mean = (b * late.load()[name].double() - a * early.load()[name].double()) / (b - a)
        torch.testing.assert_close(parameter.detach(), mean.float())
    whole = bundle.load(average(out, last=10**6, out=tmp_path / "whole"))
    for name, parameter in whole.named_parameters():
        torch.testing.assert_close(parameter.detach(), late.load()[name])
    with pytest.raises(DataError, match="no average over batches"):
        average(out, span=(after, after + 10))


def test_nothing_to_average(tmp_path: Path):
    with pytest.raises(DataError, match="holds no checkpoint"):
        average(tmp_path)


def test_bad_data_is_told_before_training(recipe: Path, tmp_path: Path):
    (tmp_path / "3.flac").write_text("not audio")
    with pytest.raises(DataError, match="c3"):
        train(recipe, out=tmp_path / "run")
    assert train(recipe, ["data.bad_share=0.2", "train.epochs=1"], out=tmp_path / "run").exists()


def test_audio_that_fails_later_is_named_at_the_end(recipe: Path, tmp_path: Path):
    whole = (tmp_path / "3.flac").read_bytes()
    middle = len(whole) // 2
    (tmp_path / "3.flac").write_bytes(whole[: middle - 300] + bytes(300) + whole[middle:])  # headers are fine
    out = tmp_path / "run"
    with pytest.raises(
        DataError, match=r"1 utterances of 6 cannot be read, more than data.bad_share=0.01 .*c3"
    ):
        train(recipe, ["train.epochs=1", "data.dev=[]"], out=out)
    train(recipe, ["train.epochs=1", "data.dev=[]", "data.bad_share=0.2"], out=out)
    assert "1 utterances could not be read and were left out" in (out / "train.log").read_text()
    assert "line 4: cut c3: its audio cannot be read" in (out / "unreadable.txt").read_text()


def test_a_run_begins_with_a_model(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = bundle.load(train(recipe, ["train.epochs=1"], out=tmp_path / "first"))
    counts: set[float] = set()
    monkeypatch.setattr(Zipformer, "set_batch_count", lambda _, count: counts.add(count))
    out = tmp_path / "second"
    # At a rate of nearly nothing the weights stay; the tokenizer is the model's, whatever the texts hold.
    path = train(
        recipe, ["train.epochs=1", "train.base_lr=1e-12"], out=out, start=tmp_path / "first" / "bundle"
    )
    second = bundle.load(path)
    assert second.tokenizer.to_bytes() == first.tokenizer.to_bytes()
    for name, parameter in second.named_parameters():
        torch.testing.assert_close(parameter, first.get_parameter(name), rtol=0, atol=1e-5)
    train(recipe, ["train.epochs=2"], out=out)  # it remembers how it began
    assert counts == {SCHEDULES_OVER}
    with pytest.raises(ConfigError, match="model.ctc: not that of"):
        train(recipe, ["model.ctc={dropout: 0.3}"], out=tmp_path / "third", start=path)
    with pytest.raises(ConfigError, match="tokenizer.kind"):
        train(recipe, ["tokenizer.kind=bpe"], out=tmp_path / "fourth", start=path)


def test_two_views_agree_after_plain_epochs(recipe: Path, tmp_path: Path):
    out = tmp_path / "run"
    train(recipe, ["train.consistency={}", "data.plain_epochs=1", "train.epochs=2"], out=out)
    lines = [line for line in (out / "train.log").read_text().splitlines() if "loss" in line]
    assert ["ctc.consistency" in line for line in lines] == [False] * (len(lines) // 2) + [True] * (
        len(lines) // 2
    )
    with pytest.raises(ConfigError, match="data.augment has no spec_augment"):
        train(recipe, ["train.consistency={}", "data.augment=[]"], out=out)
    with pytest.raises(ConfigError, match="masks whole utterances"):
        train(recipe, ["train.consistency={time_masking: 8}"], out=out)
    with pytest.raises(ConfigError, match=r"model\.ctc is null"):
        train(recipe, ["train.consistency={}", "model.ctc=null"], out=out)


def test_fine_tuning(recipe: Path, tmp_path: Path):
    first = bundle.load(train(recipe, ["train.epochs=1"], out=tmp_path / "first"))
    start, out = tmp_path / "first/bundle", tmp_path / "second"
    lora = "train.fine_tune={freeze: [heads.ctc.], lora: {rank: 2}}"
    path = train(recipe, ["train.epochs=1", lora], out=out, start=start)
    train(recipe, ["train.epochs=2", lora], out=out, start=start)
    second = bundle.load(path)
    moved = {
        name
        for name, parameter in second.named_parameters()
        if not torch.allclose(parameter, first.get_parameter(name), rtol=0, atol=1e-7)
    }
    linear = {
        f"encoder.{name}.weight"
        for name, module in first.encoder.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    assert {name for name in moved if name.startswith("encoder.")} <= linear and moved & linear
    assert not {name for name in moved if name.startswith("heads.ctc.")}
    assert any(name.startswith("heads.transducer.") for name in moved)
    for name in sorted(moved & linear):
        change = second.get_parameter(name) - first.get_parameter(name)
        assert torch.linalg.matrix_rank(change, atol=1e-5, rtol=0) <= 2
    assert "word errors before" in (path / "card.md").read_text()
    with pytest.raises(ConfigError, match=r"no parameter is called heads.lstm...; there are encoder"):
        train(recipe, ["train.fine_tune={freeze: [heads.lstm]}"], out=tmp_path / "third", start=start)
    with pytest.raises(ConfigError, match="nothing is left to be trained"):
        train(recipe, ["train.fine_tune={freeze: [encoder., heads.]}"], out=tmp_path / "fourth", start=start)


def test_a_new_tokenizer_keeps_what_it_knows(recipe: Path, tmp_path: Path):
    first = bundle.load(train(recipe, ["train.epochs=1"], out=tmp_path / "first"))
    cuts = CutSet.from_file(tmp_path / "train.jsonl.gz").to_eager()
    for cut in cuts:
        cut.supervisions[0].text = cut.supervisions[0].text.replace("a", "x")
    cuts.to_file(tmp_path / "other.jsonl.gz")
    other = tmp_path / "other.jsonl.gz"
    changes = [
        f"data.train=[{other}]",
        f"data.dev=[{other}]",
        "train.fine_tune.tokenizer=new",
        "train.base_lr=1e-12",
    ]
    second = bundle.load(
        train(recipe, ["train.epochs=1", *changes], out=tmp_path / "second", start=tmp_path / "first/bundle")
    )
    for piece in "bcd":
        old, new = first.tokenizer.encode(piece)[-1], second.tokenizer.encode(piece)[-1]
        for name in ("heads.ctc.output.weight", "heads.transducer.predictor.embedding.weight"):
            torch.testing.assert_close(
                second.get_parameter(name)[new], first.get_parameter(name)[old], atol=1e-5, rtol=0
            )
    assert second.tokenizer.encode("x")
