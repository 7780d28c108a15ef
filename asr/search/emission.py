"""What every search gives: tokens in time."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["BLANK", "Emission"]

BLANK = 0  # the token that stands for "nothing yet", in every head


class Emission(NamedTuple):
    """A token, the output frame of its stream on which it was emitted, and its natural log-probability there."""

    token: int
    frame: int
    log_probability: float
