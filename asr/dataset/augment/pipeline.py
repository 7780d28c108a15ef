"""The steps of `data.augment` that change the sound of an utterance, one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from asr.dataset.augment import codec, noise, room
from asr.dataset.augment.config import (
    Augmentation,
    Babble,
    BandLimit,
    Codec,
    Impulses,
    Noise,
    Room,
    Volume,
)

__all__ = ["Pipeline"]

Samples: TypeAlias = NDArray[np.float32]
Change: TypeAlias = Callable[[Samples, np.random.Generator], Samples]


class Pipeline:
    """Samples (S,) at 16 kHz -> as many. All that is random comes from the generator that is given.

    What would be louder than full scale at the end is made softer as a whole: nothing clips.

    Raises:
        DataError: a folder without audio.
    """

    def __init__(self, augment: Sequence[Augmentation]) -> None:
        self.steps = [
            (step.probability, change)
            for step in augment
            if (change := _change(step)) and step.kind != "speed"
        ]

    def __call__(self, samples: Samples, random: np.random.Generator) -> Samples:
        changed = samples
        for probability, change in self.steps:
            if random.random() < probability and len(samples):
                changed = change(changed, random)
        peak = float(np.abs(changed).max()) if changed is not samples else 0.0
        return changed / np.float32(peak) if peak > 1.0 else changed


def _change(step: Augmentation) -> Change | None:
    """What a step does; nothing, if it is of another stage."""
    match step:
        case Volume():
            return partial(_volume, step)
        case Noise():
            return noise.Adding(step)
        case Babble():
            return noise.Talking(step)
        case Impulses():
            return noise.Reverberating(step)
        case Room():
            return partial(room.reverberate, step)
        case Codec():
            return partial(codec.through, step)
        case BandLimit():
            return partial(codec.limit, step)
    return None


def _volume(step: Volume, samples: Samples, random: np.random.Generator) -> Samples:
    gain = np.float32(10 ** (random.uniform(*step.decibels) / 20))
    return samples * gain
