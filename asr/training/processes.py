"""Which of several training processes this is, as torchrun tells it, or SLURM where `srun` starts each one."""

from __future__ import annotations

import os

__all__ = ["local_world_size", "rank", "world_size"]


def rank() -> int:
    """0 in the first process, which alone writes files."""
    return _told("RANK", "SLURM_PROCID", 0)


def world_size() -> int:
    """Processes on all machines."""
    return _told("WORLD_SIZE", "SLURM_NTASKS", 1)


def local_world_size() -> int:
    """Processes on this machine."""
    return _told("LOCAL_WORLD_SIZE", "SLURM_NTASKS", 1) // _told("", "SLURM_NNODES", 1)


def _told(torchrun: str, slurm: str, default: int) -> int:
    """By the rule of Lightning, which is told the same: torchrun, which may be in a SLURM job, comes first, and what
    runs in a job's shell (whose name is bash or interactive) is one process."""
    interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    by_slurm = "TORCHELASTIC_RUN_ID" not in os.environ and "SLURM_NTASKS" in os.environ and not interactive
    return int(os.environ.get(slurm if by_slurm else torchrun, default))
