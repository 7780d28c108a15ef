"""Fast CPU kernels in C, and the same functions in plain torch where the library was not built."""

from __future__ import annotations

from asr.native.library import available, reason
from asr.native.swoosh import swoosh, swoosh_l, swoosh_r

__all__ = ["available", "reason", "swoosh", "swoosh_l", "swoosh_r"]
