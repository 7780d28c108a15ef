"""Which of several training processes this is, as torchrun and SLURM's launchers tell it."""

from __future__ import annotations

import os

__all__ = ["local_world_size", "rank", "world_size"]


def rank() -> int:
    """0 in the first process, which alone writes files."""
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    """Processes on all machines."""
    return int(os.environ.get("WORLD_SIZE", 1))


def local_world_size() -> int:
    """Processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))
