"""One cut's text and audio, and a cache of decoded audio."""

from __future__ import annotations

import mmap
from typing import Literal

import numpy as np
import soxr
from lhotse.cut import Cut
from numpy.typing import NDArray

from asr.audio import SAMPLE_RATE
from asr.errors import DataError

__all__ = ["Cache", "Samples", "load_audio", "resample", "text_of"]

Samples = NDArray[np.float32]


def text_of(cut: Cut, *, case: Literal["upper", "lower", "keep"] = "keep") -> str:
    """The texts of a cut's supervisions, in order of time, joined by spaces."""
    texts = [segment.text or "" for segment in sorted(cut.supervisions, key=lambda segment: segment.start)]
    text = " ".join(" ".join(texts).split())
    return {"upper": text.upper(), "lower": text.lower(), "keep": text}[case]


def load_audio(cut: Cut, *, speed: float = 1.0) -> Samples:
    """The samples of a cut, (S,) float32 at 16 kHz; several channels are averaged.

    Speed and sampling rate change in one resampling (a speed of 1.1 is a recording at 1.1 times its rate), by
    soxr.

    Raises:
        DataError: the audio is missing, damaged or shorter than the cut says, by the cut's id.
    """
    try:
        audio = np.asarray(cut.load_audio(), dtype=np.float32)
    except (
        Exception
    ) as error:  # Lhotse's backends raise types of their own; any of them means the same to the user
        raise DataError(f"cut {cut.id}: its audio cannot be read ({_first_line(error)})") from error
    return resample(audio.mean(axis=0) if len(audio) > 1 else audio[0], cut.sampling_rate * speed)


def resample(samples: Samples, rate: float) -> Samples:
    """Samples (S,) at `rate` Hz (need not be whole) at 16 kHz."""
    if rate == SAMPLE_RATE:
        return samples
    changed: Samples = soxr.resample(samples, rate, SAMPLE_RATE, quality="HQ")
    return changed


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


class Cache:
    """Decoded 16 kHz audio as int16 in memory that forked worker processes share; filled as utterances are
    first read.

    `sizes` (N,) are the most samples that each utterance may take. A process that is spawned instead starts
    with an empty cache of its own.
    """

    def __init__(self, sizes: NDArray[np.int64]) -> None:
        self.sizes = sizes
        self.starts = np.concatenate([[0], np.cumsum(sizes)])
        # Anonymous memory is taken page by page as it is written, so an unused cache costs nothing.
        self._samples = np.frombuffer(mmap.mmap(-1, max(1, int(self.starts[-1])) * 2), dtype=np.int16)
        self._lens = np.frombuffer(
            mmap.mmap(-1, max(1, len(sizes)) * 8), dtype=np.int64
        )  # length + 1; 0: not there

    def __reduce__(self) -> tuple[type[Cache], tuple[NDArray[np.int64]]]:
        return Cache, (self.sizes,)

    def get(self, index: int) -> Samples | None:
        if not (length := int(self._lens[index])):
            return None
        start = int(self.starts[index])
        return self._samples[start : start + length - 1].astype(np.float32) / np.float32(32768)

    def put(self, index: int, samples: Samples) -> Samples:
        """Keep samples, and return them as `get` will: the first epoch sees what the later ones do."""
        if len(samples) > self.sizes[index]:
            return samples
        whole = np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)
        start = int(self.starts[index])
        self._samples[start : start + len(whole)] = whole
        self._lens[index] = len(whole) + 1  # after the samples: another process may look at any time
        return whole.astype(np.float32) / np.float32(32768)
