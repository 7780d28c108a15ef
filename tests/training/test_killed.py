"""A run that is killed, at whatever moment, goes on as if it had not been."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from asr.dataset.pack import pack
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
    first, second = (
        (tmp_path / name / "bundle" / "model.safetensors").read_bytes() for name in ("whole", "killed")
    )
    assert first == second
