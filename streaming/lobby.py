"""Connections that have not made their request yet: counted, so that those who never do keep nobody out for long."""

from __future__ import annotations

import contextlib
from collections import Counter

__all__ = ["Lobby", "raise_open_files"]

_HOLDS = 1024
_HOLDS_OF_AN_ADDRESS = 256


class Lobby:
    """So many in all, and a quarter of them from one address."""

    def __init__(self, holds: int = _HOLDS, of_an_address: int = _HOLDS_OF_AN_ADDRESS) -> None:
        self._holds, self._of_an_address = holds, of_an_address
        self._waiting: Counter[str] = Counter()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def enter(self, address: str) -> bool:
        """Whether there is room. Who has entered must `leave`."""
        if self._count >= self._holds or self._waiting[address] >= self._of_an_address:
            return False
        self._waiting[address] += 1
        self._count += 1
        return True

    def leave(self, address: str) -> None:
        self._count -= 1
        self._waiting[address] -= 1
        if not self._waiting[address]:
            del self._waiting[address]


def raise_open_files(wanted: int) -> None:
    """Let this process have so many files and sockets open, or as many as it may: the usual limit is 1024."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if soft != resource.RLIM_INFINITY and soft < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
