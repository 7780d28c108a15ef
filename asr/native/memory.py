"""How the process keeps its memory, which costs more time than one would think."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

__all__ = ["Arena", "keep_freed_memory"]

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_HUGE_PAGE = 1 << 21


@cache
def keep_freed_memory() -> bool:
    """Let the process reuse the memory of large tensors. Whether that could be arranged: it needs glibc.

    By default each large tensor is fresh pages of the system, which it fills with zeros first, and gets back when the
    tensor dies: a seventh of the time of a training step. It is a setting of the whole process, for those that
    compute all the time.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = {_M_MMAP_THRESHOLD: 1 << 30, _M_TRIM_THRESHOLD: (1 << 31) - 1, _M_TOP_PAD: 64 << 20}
    return all(mallopt(name, value) for name, value in settings.items())


class Arena:
    """Memory for tensors that are read in turn again and again, in huge pages where the system has them: with small
    ones a processor stops at each page's end to look up the next.
    """

    def __init__(self, floats: int) -> None:
        # A page more, for the system aligns to small ones.
        size = (-(-4 * floats // _HUGE_PAGE) + 1) * _HUGE_PAGE
        if sys.platform.startswith("linux"):
            self._bytes = mmap.mmap(
                -1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            )  # shared memory has none
            self._bytes.madvise(mmap.MADV_HUGEPAGE)
        else:
            self._bytes = mmap.mmap(-1, size)
        self._tensor = torch.frombuffer(self._bytes, dtype=torch.float32)
        self._taken = 0

    def keep(self, x: Tensor) -> Tensor:
        """A contiguous copy of x (float32) in here."""
        size = -(-x.numel() // 16) * 16  # whole cache lines
        place = self._tensor[self._taken : self._taken + x.numel()]
        self._taken += size
        return place.copy_(x.reshape(-1)).view(x.shape)

    @staticmethod
    def room(*sizes: Sequence[int]) -> int:
        """Floats that tensors of these shapes take up."""
        return sum(-(-torch.Size(size).numel() // 16) * 16 for size in sizes)
