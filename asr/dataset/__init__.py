"""Corpora: manifests of Lhotse cuts -> validated, sampled, read and augmented -> batches."""

from __future__ import annotations

import shutil

from lhotse.audio.backend import (
    CompositeAudioBackend,
    Sph2pipeSubprocessBackend,
    get_default_audio_backend,
    set_current_audio_backend,
)

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

if not shutil.which("sph2pipe"):
    # Lhotse leaves SPHERE files to that program; libsndfile reads those that are not compressed as well.
    set_current_audio_backend(
        CompositeAudioBackend(
            [b for b in get_default_audio_backend().backends if not isinstance(b, Sph2pipeSubprocessBackend)]
        )
    )
