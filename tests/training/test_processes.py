"""Several training processes, started as torchrun and as SLURM's srun start them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from asr import bundle
from asr.training import processes
from asr.training.checkpoints import RunFolder
from asr.training.recipe import load_weights
from tests.training import parity

ROOT = Path(__file__).resolve().parents[2]


def start(command: list[str], told: list[Mapping[str, str]]) -> None:
    """Run a command as often as it is told which process it is."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    environment = {**os.environ, **address, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env={**environment, **one}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for one in told
    ]  # fmt: skip
    said = [process.communicate(timeout=300)[0] for process in running]
    assert [process.returncode for process in running] == [0] * len(told), "\n".join(said)[-3000:]


def by_torchrun(rank: int) -> dict[str, str]:
    several = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    return several | {"GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test"}


def by_srun(rank: int) -> dict[str, str]:
    several = {
        "PROCID": str(rank),
        "LOCALID": str(rank),
        "NODEID": "0",
        "NTASKS": "2",
        "NTASKS_PER_NODE": "2",
    }
    return {f"SLURM_{name}": value for name, value in (several | {"NNODES": "1", "JOB_ID": "7"}).items()}


@pytest.mark.slow
def test_two_processes_are_one_with_twice_the_batch(tmp_path: Path) -> None:
    """With DDP and FSDP: gradients, parameters, averages; a run that goes on, and one that goes on as one process.

    Last, a recipe is trained to its bundle, in shards.
    """
    (alone := tmp_path / "alone").mkdir()
    (both := tmp_path / "both").mkdir()
    start(["-m", "tests.training.parity", str(both)], [by_srun(0), by_srun(1)])
    parity.main(alone)
    for name in parity.SCENARIOS:
        one = torch.load(alone / f"{name} 0.pt")["straight"]
        first, second = (torch.load(both / f"{name} {rank}.pt") for rank in (0, 1))
        assert len(one["gradients"]) == len(first["straight"]["gradients"]) == parity.BATCHES
        for number, gradients in enumerate(one["gradients"]):  # Adam makes much of little differences, later
            near(first["straight"]["gradients"][number], gradients, share=5e-3 if number else 2e-4)
        near(first["straight"]["parameters"], one["parameters"], share=2e-3)
        equal(second["straight"]["parameters"], first["straight"]["parameters"])
        folder = RunFolder(both / name)
        model = parity.model_of(name)
        load_weights(model, folder, folder.last)
        equal(dict(model.named_parameters()), first["straight"]["parameters"])
        near(folder.snapshots()[-1].load(), RunFolder(alone / name).snapshots()[-1].load(), share=2e-3)
        if "resumed" in first:
            equal(first["resumed"]["parameters"], first["straight"]["parameters"])
            shutil.copytree(both / f"{name} here", tmp_path / name)
            near(
                parity.fit(name, tmp_path / name, batches=parity.BATCHES)["parameters"],
                one["parameters"],
                share=2e-3,
            )
    assert bundle.load(both / "recipe" / "bundle").latencies == (450,)


def near(found: Mapping[str, Any], wanted: Mapping[str, Any], *, share: float) -> None:
    """Within a share of each tensor's largest value."""
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(
            found[name],
            value,
            rtol=0,
            atol=share * float(value.abs().max()) + 1e-6,
            msg=lambda m, n=name: f"{n}: {m}",
        )


def equal(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    assert found.keys() == wanted.keys()
    assert not [name for name, value in wanted.items() if not torch.equal(found[name], value)]


def test_which_process_this_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> tuple[int, int, int]:
        return processes.rank(), processes.world_size(), processes.local_world_size()

    def told(**variables: object) -> None:
        for name in [n for n in os.environ if n.startswith("SLURM_") or n in by_torchrun(0)]:
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))

    told()
    assert found() == (0, 1, 1)
    told(**by_torchrun(1))
    assert found() == (1, 2, 2)
    slurm = {"SLURM_PROCID": 9, "SLURM_NTASKS": 32, "SLURM_NNODES": 4, "SLURM_JOB_NAME": "rill"}
    told(**slurm)
    assert found() == (9, 32, 8)
    told(**slurm | {"SLURM_JOB_NAME": "bash"})
    assert found() == (0, 1, 1)
    # torchrun once on each machine, behind srun
    torchrun = {"RANK": 9, "WORLD_SIZE": 32, "LOCAL_WORLD_SIZE": 8, "TORCHELASTIC_RUN_ID": "x"}
    told(**slurm | {"SLURM_PROCID": 1, "SLURM_NTASKS": 4}, **torchrun)
    assert found() == (9, 32, 8)
