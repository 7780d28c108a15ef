"""Reverberation: of a room that is made up, or through an impulse response that was recorded.

A made-up room is a box with a mouth and a microphone in it. Its early echoes are mirror images of the mouth (Allen
and Berkley 1979), each at its fraction of a sample (Peterson 1986), by walls that reflect what the reverberation time
asks for (Eyring 1930). After that, echoes are too dense to be told apart, and noise that decays goes on at their level,
as in the diffuse model of Lehmann and Johansson (2010) that gpuRIR (Diaz-Guerra et al. 2021) uses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from asr.audio import SAMPLE_RATE

if TYPE_CHECKING:
    from asr.dataset.augment.config import Room

__all__ = ["early_echoes", "heard", "impulse_response", "reflection", "reverberate"]

SOUND = 343.0
"""Metres a second."""
EARLY = 0.05
"""Seconds of mirror images."""
TAPS = 40
"""Of the interpolation to each side of an echo."""
FROM_WALL = 0.5
"""Metres that mouth and microphone are away from walls at least."""

Samples = NDArray[np.float32]
Floats = NDArray[np.float64]


def reverberate(step: Room, samples: Samples, random: np.random.Generator) -> Samples:
    """Samples (S,) as heard in a room drawn from the ranges of `step`; as many, and as loud."""
    size = np.array([random.uniform(*side) for side in (step.length, step.width, step.height)])
    mouth = random.uniform(FROM_WALL, size - FROM_WALL)
    way = random.normal(size=3)
    ear = mouth + random.uniform(*step.distance) * way / np.linalg.norm(way)
    ear = np.clip(ear, FROM_WALL, size - FROM_WALL)
    if np.linalg.norm(ear - mouth) < step.distance[0]:  # a wall stood in the way
        ear = mouth + (size / 2 - mouth) * 0.9 + 0.1
    response = impulse_response(size, mouth, ear, random.uniform(*step.t60), random)
    return heard(samples, response, TAPS)


def heard(samples: Samples, response: Samples, direct: int) -> Samples:
    """Samples (S,) through an impulse response whose direct sound is at sample `direct`: as many, in their place, and
    with their power."""
    # numpy's transform: torch's depends on the number of threads, and a process that reads for others has one.
    size = 1 << (len(samples) + len(response) - 2).bit_length()
    spectrum = np.fft.rfft(samples.astype(np.float64), size) * np.fft.rfft(response.astype(np.float64), size)
    wet = np.fft.irfft(spectrum, size)[direct : direct + len(samples)].astype(np.float32)
    before, after = (float(np.mean(np.square(x, dtype=np.float64))) for x in (samples, wet))
    return wet * np.float32(np.sqrt(before / after)) if after > 0 else samples


def impulse_response(
    size: Floats, mouth: Floats, ear: Floats, t60: float, random: np.random.Generator
) -> Samples:
    """What arrives of a click, at 16 kHz, until it has fallen by 60 dB; the direct sound is at sample `TAPS`.

    size, mouth, ear (3,) in metres, the walls at 0 and `size`. t60 in seconds.
    """
    early = early_echoes(size, mouth, ear, reflection(size, t60), min(EARLY, t60))
    response = np.zeros(TAPS + round(t60 * SAMPLE_RATE))
    meet = min(len(early) - TAPS, len(response))  # the last echoes have images that are not there
    response[:meet] = early[:meet]
    fall = np.log(1000.0) / (t60 * SAMPLE_RATE)  # of the amplitude, a sample
    window = slice(max(TAPS + 1, meet // 2), meet)
    level = np.sqrt(np.mean((response[window] * np.exp(fall * np.arange(window.start, meet))) ** 2))
    late = np.arange(meet, len(response))
    response[meet:] = level * random.normal(size=len(late)) * np.exp(-fall * late)
    return response.astype(np.float32)


def reflection(size: Floats, t60: float) -> float:
    """How much of the pressure all walls must reflect for the reverberation time, by Eyring's formula."""
    volume = float(np.prod(size))
    surface = 2 * float(size[0] * size[1] + size[1] * size[2] + size[0] * size[2])
    absorbed = 1 - np.exp(-24 * np.log(10) / SOUND * volume / (surface * t60))
    return float(np.sqrt(1 - absorbed))


def early_echoes(size: Floats, mouth: Floats, ear: Floats, reflect: float, seconds: float) -> Floats:
    """The mirror images of a mouth whose sound arrives within `seconds` of the direct one, at sample `TAPS`.

    Amplitudes are relative to 1 at a metre.
    """
    direct = float(np.linalg.norm(mouth - ear))
    reach = np.ceil((direct + seconds * SOUND) / (2 * size)).astype(int)
    axes = []
    for side, one, other, most in zip(size, mouth, ear, reach, strict=True):
        n = np.arange(-most, most + 1)
        # Images at 2 n L + s and 2 n L - s, after |2 n| and |2 n - 1| reflections.
        place = np.concatenate([2 * n * side + one, 2 * n * side - one]) - other
        axes.append((place**2, np.concatenate([np.abs(2 * n), np.abs(2 * n - 1)])))
    (x, a), (y, b), (z, c) = axes
    distance = np.sqrt(x[:, None, None] + y[None, :, None] + z[None, None, :]).ravel()
    order = (a[:, None, None] + b[None, :, None] + c[None, None, :]).ravel()
    near = distance <= direct + seconds * SOUND
    distance, order = distance[near], order[near]
    at = np.maximum(distance - direct, 0.0) / SOUND * SAMPLE_RATE
    whole = np.floor(at).astype(np.int64)
    taps = np.arange(-TAPS, TAPS + 1)
    off = taps - (at - whole)[:, None]
    kernel = np.sinc(off) * np.cos(np.pi * off / (2 * TAPS + 2)) ** 2
    echoes = (reflect**order / distance)[:, None] * kernel
    places = whole[:, None] + taps + TAPS
    length = round(seconds * SAMPLE_RATE) + 2 * TAPS + 1
    summed = np.bincount(places.ravel(), echoes.ravel(), minlength=length)[:length]
    return summed.astype(np.float64, copy=False)
