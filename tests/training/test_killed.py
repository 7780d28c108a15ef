"""A run that is killed, at whatever moment, goes on as if it had not been."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from asr.dataset.pack import pack
from asr.errors import DataError
from asr.training.checkpoints import RunFolder
from asr.training.history import read_history
from asr.training.train import train

ROOT = Path(__file__).parents[2]
SCRIPT = "import sys; from asr.training.train import train; train(sys.argv[1], sys.argv[3:], out=sys.argv[2])"


def kill(recipe: Path, out: Path, overrides: list[str], now: Callable[[], bool]) -> None:
    """Train in a process of its own, and SIGKILL it as soon as `now` says so."""
    command = [sys.executable, "-c", SCRIPT, str(recipe), str(out), *overrides]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        while not now():
            assert process.poll() is None, process.stdout.read().decode()[-3000:]
            time.sleep(0.001)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def curve(out: Path) -> dict[int, set[str]]:
    """By batch, what the log tells of it, without times; of a batch that was trained on twice, each."""
    found: dict[int, set[str]] = defaultdict(set)
    for batch, told in re.findall(r" batch (\d+)  (epoch .*? clip \S+)", (out / "train.log").read_text()):
        found[int(batch)].add(told)
    return found


@pytest.mark.slow
def test_a_killed_run_has_the_curve_of_one_that_was_not(recipe: Path, tmp_path: Path) -> None:
    shards = pack([tmp_path / "train.jsonl.gz"], tmp_path / "shards", utterances=2)
    overrides = [
        f"data.train=[{shards}]",
        "data.weights=[1.5]",
        "tokenizer={kind: unigram, vocabulary: 300}",
        "data.dev=[]",
        "data.workers=2",
        "data.shards_at_once=1",
        "data.max_duration=1.8",
        "data.max_seconds=1.2",
        "data.augment=[{kind: speed}, {kind: concatenate, probability: 0.3}, {kind: volume}, {kind: noise, probability: "
        f"0.5, folder: {tmp_path}}}, {{kind: room}}, {{kind: codec}}, {{kind: cutmix}}, {{kind: spec_augment, warp_frames: 5}}]",
        "train.save_minutes=1e-9",
        "train.epochs=3",
    ]
    train(recipe, overrides, out=tmp_path / "whole")
    whole = curve(tmp_path / "whole")
    assert len(whole) >= 12 and all(len(told) == 1 for told in whole.values())

    out = tmp_path / "killed"
    partial = out / "checkpoints" / "last.ckpt.partial"
    kill(recipe, out, overrides, lambda: (out / "train.log").exists() and len(curve(out)) >= 3)
    reached = max(curve(out))
    kill(recipe, out, overrides, lambda: max(curve(out)) > reached + 1 and partial.exists())
    assert max(curve(out)) < max(whole)
    train(recipe, overrides, out=out)
    assert curve(out) == whole
    histories = [read_history(RunFolder(tmp_path / name)) for name in ("whole", "killed")]
    assert [len(told.sessions) for told in histories] == [1, 3]
    for name in ("train/loss", "train/learning rate", "train/gradient norm", "train/epochs"):
        assert histories[0].curves[name] == histories[1].curves[name]
    first, second = (
        (tmp_path / name / "bundle" / "model.safetensors").read_bytes() for name in ("whole", "killed")
    )
    assert first == second


def test_a_full_disk_is_told_and_the_last_good_checkpoint_stays(recipe: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    train(recipe, ["train.epochs=1", "data.dev=[]"], out=folder.path)
    good = folder.last.read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (len(good) // 2, before[1])
    )  # no file grows beyond, as if disks were full
    try:
        with pytest.raises(
            DataError, match=r"last.ckpt cannot be written .* GB are free there. Make room and run"
        ):
            train(recipe, ["train.epochs=2", "data.dev=[]"], out=folder.path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert folder.last.read_bytes() == good and not list(folder.path.rglob("*.partial"))
    train(recipe, ["train.epochs=2", "data.dev=[]"], out=folder.path)
    assert [one.batch for one in read_history(folder).sessions] == [0, 1, 1]
