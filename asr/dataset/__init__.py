"""Corpora: manifests of Lhotse cuts -> validated, sampled, read and augmented -> batches."""

from __future__ import annotations

from asr.dataset.augment import SpecAugmentConfig, Spectral
from asr.dataset.config import DataConfig
from asr.dataset.loader import Batch, Loader
from asr.dataset.validate import Problem, Report, check, validate

__all__ = [
    "Batch",
    "DataConfig",
    "Loader",
    "Problem",
    "Report",
    "SpecAugmentConfig",
    "Spectral",
    "check",
    "validate",
]
