"""Several training processes, started as torchrun starts them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys
import torch
from pathlib import Path
from asr.training import train as module
from asr.training.processes import rank

out, batches, seconds = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
gradients = []

def keep(task, optimizer, *_):
    gradients.append({n: p.grad.clone() for n, p in task.model.named_parameters() if p.grad is not None})
    if len(gradients) == batches:
        torch.save((gradients, task.model.state_dict(), vars(task.progress)), out / f"rank{rank()}.pt")

module.Task.on_before_optimizer_step = keep
module.train(
    "recipes/mini/train.yaml",
    [f"data.max_duration={seconds}", "train.epochs=%s" % sys.argv[4], "train.hours=null", "train.threads=1",
     "train.optimizer=adamw", "train.base_lr=1e-9", "data.dev=[]"],
    out=out / "run",
)
"""


def run(out: Path, *, processes: int, batches: int, seconds: float, epochs: float) -> list[tuple]:
    out.mkdir()
    script = out / "script.py"
    script.write_text(SCRIPT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = []
    for rank in range(processes):
        several = {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes), "GROUP_RANK": "0",
            "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            "TORCHELASTIC_RUN_ID": "test",
        }  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        running.append(
            subprocess.Popen(
                [sys.executable, str(script), str(out), str(batches), str(seconds), str(epochs)],
                cwd=ROOT,
                env=environment | several if processes > 1 else environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    told = [process.communicate(timeout=300)[0] for process in running]
    assert [process.returncode for process in running] == [0] * processes, "\n".join(told)[-3000:]
    return [torch.load(out / f"rank{rank}.pt", weights_only=False) for rank in range(processes)]


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path: Path) -> None:
    first, second = run(tmp_path / "two", processes=2, batches=4, seconds=20, epochs=0.35)
    for name, gradient in first[0][-1].items():
        assert torch.equal(gradient, second[0][-1][name]), name
    for name, value in first[1].items():
        assert torch.equal(value, second[1][name]), name
    assert first[2]["seconds"] == second[2]["seconds"]
