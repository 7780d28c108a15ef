"""Whether words are as often right as their confidence says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Bin", "Reliability"]

BINS = 10


@dataclass(frozen=True)
class Bin:
    """Words of like confidence: the mean of it, how many of them were right (0 to 1), how many they are."""

    confidence: float
    right: float
    count: int


@dataclass(frozen=True)
class Reliability:
    """Of some words: ten bins, those without words left out.

    error: the expected calibration error (Naeini et al. 2015), the bins' mean distance between confidence and share of
    right words, weighted by their counts. cross_entropy: normalized (NIST), 1 for certain and true, 0 for what the
    share of right words alone tells, below 0 for worse than that.
    """

    bins: tuple[Bin, ...]
    error: float
    cross_entropy: float

    @staticmethod
    def of(confidences: Sequence[float], right: Sequence[bool]) -> Reliability | None:
        """None of no words at all."""
        if not confidences:
            return None
        c, r = np.array(confidences, np.float64), np.array(right, np.float64)
        number = np.minimum((c * BINS).astype(int), BINS - 1)
        bins = [
            Bin(float(c[number == i].mean()), float(r[number == i].mean()), int((number == i).sum()))
            for i in range(BINS)
            if (number == i).any()
        ]
        error = sum(b.count * abs(b.confidence - b.right) for b in bins) / len(c)
        return Reliability(tuple(bins), error, _normalized_cross_entropy(c, r))


def _normalized_cross_entropy(c: np.ndarray, r: np.ndarray) -> float:
    c = np.clip(c, 1e-7, 1 - 1e-7)
    share = float(r.mean())
    if share in (0.0, 1.0):
        return 0.0
    best = -share * math.log(share) - (1 - share) * math.log(1 - share)
    found = -float((r * np.log(c) + (1 - r) * np.log(1 - c)).mean())
    return 1 - found / best
