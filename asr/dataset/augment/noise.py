"""Recordings of others that are added to an utterance, or that it is heard through."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from asr.audio import SAMPLE_RATE
from asr.dataset.augment.config import Babble, Impulses, Noise
from asr.dataset.augment.room import heard
from asr.errors import DataError
from asr.paths import AUDIO_SUFFIXES

__all__ = ["Adding", "Reverberating", "Talking", "mix", "recordings"]

SILENCE = 1e-10
"""Power below which a signal is none: 100 dB below full scale."""
TRIES = 5
"""Pieces that are drawn until one is not silent."""
LONGEST_IMPULSE = 2.0
"""Seconds of an impulse response that are used."""

Samples = NDArray[np.float32]


def recordings(folder: Path, parts: Sequence[str] = ()) -> list[Path]:
    """The audio files below a folder, in order of name; below those of its `parts` that there are, if there are any.

    Raises:
        DataError: there is none.
    """
    roots = [folder / part for part in parts if (folder / part).is_dir()] or [folder]
    found = [path for root in roots for path in root.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES]
    if not found:
        raise DataError(
            f"data.augment: no audio in {folder}; give a folder of recordings, such as MUSAN's (openslr.org/17)"
        )
    return sorted(found)


class Adding:
    """Adds a piece of one recording. Samples (S,), generator -> (S,)."""

    def __init__(self, step: Noise) -> None:
        self.snr, self.files = step.snr, recordings(step.folder, step.parts)

    def __call__(self, samples: Samples, random: np.random.Generator) -> Samples:
        return mix(samples, _piece(self.files, len(samples), random), random.uniform(*self.snr))


class Talking:
    """Adds several voices of like loudness. Samples (S,), generator -> (S,)."""

    def __init__(self, step: Babble) -> None:
        self.snr, self.voices, self.files = step.snr, step.voices, recordings(step.folder, step.parts)

    def __call__(self, samples: Samples, random: np.random.Generator) -> Samples:
        babble = np.zeros_like(samples)
        for _ in range(random.integers(self.voices[0], self.voices[1] + 1)):
            voice = _piece(self.files, len(samples), random)
            babble += voice / np.float32(np.sqrt(max(_power(voice), SILENCE)))
        return mix(samples, babble, random.uniform(*self.snr))


class Reverberating:
    """Lets an utterance be heard through a recorded impulse response. Samples (S,), generator -> (S,)."""

    def __init__(self, step: Impulses) -> None:
        self.files = recordings(step.folder, step.parts)

    def __call__(self, samples: Samples, random: np.random.Generator) -> Samples:
        path = self.files[int(random.integers(len(self.files)))]
        impulse = _read(path, 0, round(LONGEST_IMPULSE * _header(path)[0]))
        return heard(samples, impulse, int(np.abs(impulse).argmax()))


def mix(samples: Samples, noise: Samples, snr: float) -> Samples:
    """The sum of two signals (S,), the second made so loud that the first is `snr` dB above it. Silence stays."""
    signal, other = _power(samples), _power(noise)
    if signal < SILENCE or other < SILENCE:
        return samples
    return samples + noise * np.float32(np.sqrt(signal / other / 10 ** (snr / 10)))


def _power(samples: Samples) -> float:
    return float(np.mean(np.square(samples, dtype=np.float64)))


def _piece(files: Sequence[Path], length: int, random: np.random.Generator) -> Samples:
    """So many samples of a recording from a random place on, repeated where it is shorter; not silent if that can
    be."""
    for _ in range(TRIES):
        path = files[int(random.integers(len(files)))]
        rate, frames = _header(path)
        wanted = -(-length * rate // SAMPLE_RATE) + 1
        start = int(random.integers(max(1, frames - wanted + 1)))
        piece = np.resize(_read(path, start, wanted), length)
        if _power(piece) >= SILENCE:
            break
    return piece


def _read(path: Path, start: int, frames: int) -> Samples:
    """Frames of the file as samples at 16 kHz, all channels together."""
    try:
        samples, rate = soundfile.read(path, frames=frames, start=start, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise _unreadable(path, error) from error
    mono = samples.mean(axis=1)
    return mono if rate == SAMPLE_RATE else soxr.resample(mono, rate, SAMPLE_RATE, quality="HQ")


@lru_cache(maxsize=100_000)
def _header(path: Path) -> tuple[int, int]:
    """Rate and frames of a file."""
    try:
        info = soundfile.info(path)
    except (soundfile.LibsndfileError, OSError) as error:
        raise _unreadable(path, error) from error
    if not info.frames:
        raise _unreadable(path, "it holds no samples")
    return info.samplerate, info.frames


def _unreadable(path: Path, error: object) -> DataError:
    return DataError(f"data.augment: {path} cannot be read ({error}); mend it or take it out of the folder")
