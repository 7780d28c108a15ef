"""What a telephone or a low bit rate does to speech, by libsndfile's encoders."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import soundfile
import soxr
from lhotse.augmentation.compress import Compress
from numpy.typing import NDArray

from asr.audio import SAMPLE_RATE

if TYPE_CHECKING:
    from asr.dataset.augment.config import BandLimit, Codec, CodecName

__all__ = ["band", "encoded", "limit", "through"]

TELEPHONE = 8000
FRAME = 320
"""Samples at 16 kHz, 20 ms."""
SHORTEST = 10 * FRAME
TELEPHONE_CODECS = {"mu_law": "ULAW", "a_law": "ALAW", "gsm": "GSM610", "adpcm": "VOX_ADPCM"}

Samples = NDArray[np.float32]


def through(step: Codec, samples: Samples, random: np.random.Generator) -> Samples:
    """Samples (S,) through one of the codecs."""
    return encoded(samples, random.choice(step.codecs), random.uniform(*step.compression))


def limit(step: BandLimit, samples: Samples, random: np.random.Generator) -> Samples:
    """Samples (S,) as if they had been recorded at one of the rates."""
    return band(samples, int(random.choice(step.rates)))


def encoded(samples: Samples, codec: CodecName, compression: float) -> Samples:
    """Samples (S,) encoded and decoded, in their place and as many. `compression` is not a telephone codec's."""
    loudest = max(1.0, float(np.abs(samples).max()))  # encoders clip
    length = len(samples)
    whole = max(SHORTEST, -(-length // FRAME) * FRAME)  # some refuse parts of their frames
    samples = np.pad(samples, (0, whole - length)) / np.float32(loudest)
    if codec in TELEPHONE_CODECS:
        decoded = _telephone(samples, TELEPHONE_CODECS[codec])
    else:
        decoded = Compress(codec, compression)(samples[None], SAMPLE_RATE)[0]
    return _fit(decoded * np.float32(loudest), length)


def band(samples: Samples, rate: int) -> Samples:
    """Samples (S,) without what a recording at `rate` Hz cannot hold."""
    narrow = soxr.resample(samples, SAMPLE_RATE, rate, quality="HQ")
    return _fit(soxr.resample(narrow, rate, SAMPLE_RATE, quality="HQ"), len(samples))


def _telephone(samples: Samples, subtype: str) -> Samples:
    narrow = soxr.resample(samples, SAMPLE_RATE, TELEPHONE, quality="HQ")
    raw = {"samplerate": TELEPHONE, "format": "RAW", "subtype": subtype}
    with io.BytesIO() as buffer:
        soundfile.write(buffer, np.clip(narrow, -1.0, 1.0), **raw)
        buffer.seek(0)
        decoded, _ = soundfile.read(buffer, dtype="float32", channels=1, **raw)
    wide: Samples = soxr.resample(decoded, TELEPHONE, SAMPLE_RATE, quality="HQ")
    return wide


def _fit(samples: Samples, length: int) -> Samples:
    """As many samples as there were: codecs count in frames of their own."""
    return np.pad(samples[:length], (0, max(0, length - len(samples)))).astype(np.float32)
