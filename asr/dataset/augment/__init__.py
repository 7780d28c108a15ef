"""Changes of the training data, declared as one list (`data.augment`) and drawn anew each epoch.

`config.py` says what there is. Speed and joining belong to the plan of an epoch (`asr/dataset/sampler.py`), changes of
the sound to whoever reads it (`pipeline.py`), changes of the features to the device that computes them (`spectrum.py`).
"""

from __future__ import annotations

from asr.dataset.augment.config import (
    Augmentation,
    Babble,
    BandLimit,
    Codec,
    Concatenate,
    CutMixConfig,
    Impulses,
    Noise,
    Room,
    SpecAugmentConfig,
    Speed,
    Volume,
)
from asr.dataset.augment.pipeline import Pipeline
from asr.dataset.augment.spectrum import CutMix, SpecAugment, Spectral

__all__ = [
    "Augmentation",
    "Babble",
    "BandLimit",
    "Codec",
    "Concatenate",
    "CutMix",
    "CutMixConfig",
    "Impulses",
    "Noise",
    "Pipeline",
    "Room",
    "SpecAugment",
    "SpecAugmentConfig",
    "Spectral",
    "Speed",
    "Volume",
]
