"""Where words begin and end around the frames that CTC puts their tokens on.

CTC emits a token on a frame or two in the midst of its sound (Zeyer et al. 2021 discuss these peaks). A word lasts from
some time before its first peak to some time after its last: to where the sound breaks off, or the next word begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from asr.audio import HOP, SAMPLE_RATE

__all__ = ["LEAD", "TRAIL", "edges", "loudness", "sounding"]

LEAD = 0.06  # seconds from a word's beginning to its first peak: the median of words after a silence
TRAIL = 0.15  # and from its last peak to its end, where the sound does not tell
REACH_BACK, REACH_ON = 0.25, 0.6  # seconds that a word may last before its first peak and after its last
CLOSURE = 0.08  # seconds of quiet that a word may hold: a stop consonant's
RANGE = 15.0  # decibels between noise and speech, below which the sound tells nothing
DEEPEST = 50.0  # that range is taken for no more
SHARE = 0.35  # of that range: what is louder belongs to speech


def loudness(samples: np.ndarray) -> np.ndarray:
    """Samples (S,) at 16 kHz -> decibels of each whole hop of 10 ms, (S // 160,)."""
    hops = samples[: len(samples) // HOP * HOP].reshape(-1, HOP)
    decibels: np.ndarray = 10 * np.log10((hops.astype(np.float64) ** 2).mean(1) + 1e-10)
    return decibels


def sounding(decibels: np.ndarray) -> np.ndarray | None:
    """(T,) -> where there is sound, short closures included; None where speech does not stand out from noise."""
    if not len(decibels):
        return None
    floor, top = np.percentile(decibels, (5, 95))
    floor = max(floor, top - DEEPEST)  # digital silence is no measure of what noise there is
    if top - floor < RANGE:
        return None
    loud = decibels > floor + SHARE * (top - floor)
    at = np.flatnonzero(loud)
    for begin, end in pairwise(at):
        if (end - begin - 1) * HOP <= CLOSURE * SAMPLE_RATE:
            loud[begin:end] = True
    return loud


def edges(
    peaks: Sequence[tuple[float, float]], sound: np.ndarray | None, duration: float
) -> list[tuple[float, float]]:
    """Each word's first peak's beginning and last peak's end, in seconds -> its start and end; none overlap.

    sound: of `sounding`. duration: seconds of the recording; no time lies beyond it.
    """
    found: list[tuple[float, float]] = []
    before = 0.0
    for i, (first, last) in enumerate(peaks):
        first, last = min(first, duration), min(last, duration)
        limit = max(last, peaks[i + 1][0] - LEAD) if i + 1 < len(peaks) else duration
        if sound is None:
            start, end = first - LEAD, last + TRAIL
        else:
            start, end = _walk(sound, first, -1, REACH_BACK), _walk(sound, last, 1, REACH_ON)
        start = max(before, min(start, first))
        before = max(start, min(max(end, last), limit, duration))
        found.append((min(round(start, 3), duration), min(round(before, 3), duration)))
    return found


def _walk(sound: np.ndarray, seconds: float, way: int, reach: float) -> float:
    """How far sound goes on from a moment, forwards or backwards."""
    hop = HOP / SAMPLE_RATE
    at = min(round(seconds / hop), len(sound))
    steps = 0
    while steps * hop < reach:
        place = at + steps if way > 0 else at - 1 - steps
        if not 0 <= place < len(sound) or not sound[place]:
            break
        steps += 1
    return (at + way * steps) * hop
