"""Memory: how much there is, how much was used at most, and what to say when it was not enough."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from asr.audio import SAMPLE_RATE
from asr.dataset import Batch
from asr.errors import DataError

__all__ = ["available", "enough_memory", "is_out_of_memory", "peak"]

_SIGNS = ("can't allocate memory", "cannot allocate memory", "not enough memory", "out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, torch's or Python's, says that memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)


@contextlib.contextmanager
def enough_memory(batch: Batch) -> Iterator[None]:
    """Raises DataError in place of an error that says that memory ran out: which batch it was, and what to set."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise DataError(
            f"out of memory on a batch of {_told(batch)}, and train.accumulate for as much a step"
        ) from error


def _told(batch: Batch) -> str:
    """What a batch holds, and how to make it smaller."""
    count, seconds, tokens = len(batch.ids), batch.samples.shape[1] / SAMPLE_RATE, batch.tokens.shape[1]
    if not seconds:
        return f"{count} texts of at most {tokens} tokens. Set data.max_tokens={int(0.7 * count * tokens)}"
    return (
        f"{count} utterances of at most {seconds:.1f} s ({count * seconds:.0f} s with padding) and {tokens} tokens: "
        f"{', '.join(batch.ids[:3])}{' ...' if count > 3 else ''}. Set data.max_duration="
        f"{max(1, int(0.7 * count * seconds))} or what `asr train RECIPE --find-batch` finds"
    )


def available(device: torch.device) -> int:
    """Bytes that this process may use in all: of the device, or of the machine or the container it runs in."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)
    status = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    found = [int(status["MemAvailable"].split()[0]) * 1024 + _resident()]
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):  # no such group, or "max"
            group = Path("/sys/fs/cgroup")
            left = int((group / limit).read_text()) - int((group / used).read_text())
            found.append(left + _resident())
    return min(found)


def peak(device: torch.device) -> int:
    """The most bytes that this process has used so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return _resident()


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
