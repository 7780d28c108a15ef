"""What a process and its own take: memory and time."""

from __future__ import annotations

import os
from pathlib import Path


def memory_and_time(process: int) -> tuple[float, float]:
    """Megabytes of a process and its own, what they share counted once and without files, of which other programs have
    parts; and CPU seconds.
    """
    seconds = 0.0
    for one in family(process):
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return sum(memory(process, "Pss_Anon")), seconds


def memory(process: int, kind: str) -> list[float]:
    """Megabytes of a kind that smaps_rollup knows, of a process and of each of its own."""
    lines = (Path(f"/proc/{one}/smaps_rollup").read_text().splitlines() for one in family(process))
    return [sum(int(line.split()[1]) for line in each if line.startswith(f"{kind}:")) / 1e3 for each in lines]


def family(process: int) -> list[int]:
    return [process, *map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split())]
