"""The report of a run: whole, alone, over all of its sessions."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from asr.cli import main
from asr.errors import DataError
from asr.training import history
from asr.training.checkpoints import RunFolder
from asr.training.history import History, Session, git_state, read_history
from asr.training.report import html, write_report
from asr.training.train import train
from tests.pages.html import read


def session(batch: int) -> Session:
    return Session(batch, "2026-01-01", "asr train", ("rill at abc",), {"torch": "2"})


def test_a_history_is_that_of_the_run_that_was_not_killed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    told = History(folder)
    told.begin(session(0))
    for batch in (10, 20, 30):
        told.log_metrics({"train/loss": 1 / batch}, step=batch)
    told.log_metrics({"dev/WER ctc": 50.0}, step=30)
    with folder.history.open("a") as file:
        file.write('{"batch": 40, "sca')  # killed here, long after the checkpoint at batch 20
    told.begin(session(20))
    told.log_metrics({"train/loss": 3.0}, step=25)
    found = read_history(folder)
    assert found.curves == {"train/loss": [(10, 0.1), (20, 0.05), (25, 3.0)]}
    assert [one.batch for one in found.sessions] == [0, 20] and found.sessions[0] == session(0)


def test_a_full_disk_is_told_by_the_files_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(DataError, match=r"history.jsonl cannot be written .*No space left.* Make room"):
        History(RunFolder(tmp_path)).log_metrics({"train/loss": 1.0}, step=1)
    monkeypatch.undo()
    monkeypatch.setattr(Path, "write_bytes", full)
    (tmp_path / "config.yaml").touch()
    with pytest.raises(DataError, match="report.html cannot be written"):
        write_report(RunFolder(tmp_path))


def test_git(tmp_path: Path) -> None:
    assert git_state(tmp_path / "recipe.yaml") is None
    run = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "recipe.yaml").touch()
    for words in (["init", "-q", "-b", "trunk"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*run, *words], check=True)
    assert re.fullmatch(
        rf"{tmp_path.name} at \w{{12}} \(trunk\), unchanged", git_state(tmp_path / "recipe.yaml") or ""
    )
    (tmp_path / "recipe.yaml").write_text("changed")
    assert (git_state(tmp_path) or "").endswith("with changes to recipe.yaml")


def test_any_text_is_only_text(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    (tmp_path / "config.yaml").write_text("a: <script>&\n")
    assert "Nothing has been trained" in read(html(folder))
    told = History(folder)
    told.begin(session(0))
    told.log_metrics({"train/loss": float("nan"), "train/<b>": 1.0, "train/s in a batch": 8.0}, step=1)
    told.log_metrics({"dev/WER <ctc>": 5.0, "dev/ctc": 1.0}, step=1)
    told.log_image("<alignment>/a", [np.zeros((4, 4, 3), np.uint8)])
    heard = {"batch": 1, "references": {"<u>": "a <b> c"}, "heard": {"<ctc>": {"<u>": "a & c"}}}
    folder.heard.write_text(json.dumps(heard))
    folder.after.write_text(
        json.dumps({"tried": {"<s>": "1 %"}, "chosen": "<s>", "domains": {"<d>": ["2 %", "1 %"]}})
    )
    text = read(html(folder))
    for one in ("<script>&", "<b>", "WER <ctc>", "5.00 %", "<u>", "<s>", "<d>", "chosen", "8.0 in the mean"):
        assert one in text


def test_of_a_run(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(history, "git_state", lambda place: f"checkout of {place.name}")
    out = tmp_path / "run"
    first = train(recipe, ["train.epochs=1"], out=tmp_path / "first")
    train(recipe, ["train.epochs=1"], out=out, start=first)
    once = read_history(RunFolder(out)).curves
    train(recipe, ["train.epochs=2"], out=out, start=first)
    page = (out / "report.html").read_text(encoding="utf-8")
    text = read(page)
    for told in (
        "Training: run", "WER transducer", "Each validation", "Weights of the bundle", "checkpoint best.ckpt", "chosen",
        "Before and after", "learning rate", "gradient norm", "seconds of speech per second", "share of padding", "utterances left out",
        "alignment transducer", "Worst", "checkout of tones.yaml", "embed_channels", "torch", "written",
    ):  # fmt: skip
        assert told in text, told
    assert not re.findall(r"https?:", page)
    assert base64.b64decode(re.findall(r"base64,([^\"]+)", page)[0]).startswith(b"\x89PNG")
    twice = read_history(RunFolder(out))
    assert [one.batch for one in twice.sessions] == [0, once["train/loss"][-1][0]]
    for name in ("train/loss", "dev/WER ctc"):  # the whole curve, the first session's part unchanged
        assert twice.curves[name][: len(once[name])] == once[name] and len(twice.curves[name]) > len(
            once[name]
        )
    with pytest.raises(SystemExit) as done:
        main(["report", str(out), "--out", str(tmp_path / "page.html")])
    assert not done.value.code and capsys.readouterr().out == f"{tmp_path / 'page.html'}\n"
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page
    with pytest.raises(DataError, match="holds no run"):
        write_report(RunFolder(tmp_path))
