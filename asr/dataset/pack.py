"""`asr shards`: a manifest's audio and texts into shards, which are read in long stretches wherever they lie."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile
from lhotse import AudioSource, MonoCut, Recording
from lhotse.cut import Cut
from lhotse.shar import SharWriter

from asr.audio import SAMPLE_RATE
from asr.dataset.manifest import Manifest
from asr.dataset.shards import SUMMARY
from asr.errors import ConfigError, DataError

__all__ = ["FORMATS", "pack"]

FORMATS = ("flac", "opus", "mp3", "wav")


def pack(
    places: Sequence[str | Path],
    out: Path,
    *,
    utterances: int = 1000,
    format: str = "flac",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write Lhotse Shar with so many `utterances` a shard into a new folder; returns it.

    Utterances come in random order, so that a few shards are a fair sample of all. Audio is 16 kHz, mono; `format` is
    one of FORMATS.

    Raises:
        ConfigError: another format.
        DataError: the folder is there already, or audio cannot be read, by its line.
    """
    if format not in FORMATS:
        raise ConfigError(f"--format {format}: is none of {', '.join(FORMATS)}")
    manifest = Manifest(places)
    if not len(manifest):
        raise DataError(f"no utterances in {', '.join(map(str, places))}")
    partial = out.with_name(out.name + ".partial")
    if out.exists() or partial.exists():
        raise DataError(
            f"{out if out.exists() else partial} is there already; remove it, or name another folder"
        )
    partial.mkdir(parents=True)
    order = np.random.default_rng(seed).permutation(len(manifest))
    with SharWriter(str(partial), {"recording": format}, shard_size=utterances) as writer:
        for done, i in enumerate(order.tolist(), 1):
            try:
                writer.write(_single(manifest, i))
            except DataError as error:
                raise DataError(
                    f"{manifest.where(i)}: {error}; take out the line, or mend the file"
                ) from error
            if progress is not None:
                progress(done, len(manifest))
    summary = {
        "shards": -(-len(manifest) // utterances),
        "utterances": len(manifest),
        "hours": round(float(manifest.durations.sum()) / 3600, 3),
        "format": format,
    }
    (partial / SUMMARY).write_text(json.dumps(summary) + "\n", encoding="utf-8")
    partial.rename(out)
    return out


def _single(manifest: Manifest, i: int) -> Cut:
    """An utterance as one recording of its own, in memory."""
    cut, samples = manifest.load(i)
    data = _wav(samples)
    duration = len(samples) / SAMPLE_RATE
    recording = Recording(
        cut.id, [AudioSource("memory", [0], data)], SAMPLE_RATE, len(samples), duration, channel_ids=[0]
    )
    return MonoCut(cut.id, 0.0, duration, 0, recording=recording, supervisions=list(cut.supervisions))


def _wav(samples: np.ndarray[tuple[int], np.dtype[np.float32]]) -> bytes:
    with io.BytesIO() as buffer:
        soundfile.write(buffer, samples, SAMPLE_RATE, format="WAV", subtype="FLOAT")
        return buffer.getvalue()
