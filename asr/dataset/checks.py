"""What may be wrong with one line of a manifest: its times, its text, its audio."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain, pairwise
from pathlib import Path

import soundfile
from lhotse.audio import Recording
from lhotse.cut import Cut, MixedCut

__all__ = ["Found", "faults"]

TOLERANCE = 0.025
"""Seconds by which times may disagree: less than an output frame of any model, more than rounding in
manifests."""
CHARACTERS_PER_SECOND = 35
"""More than anyone speaks: such a text belongs to other audio, or its times are wrong."""

Found = Iterator[tuple[str, str]]
"""What is wrong, and the remedy."""


def faults(cut: Cut, *, audio: bool) -> Found:
    """All that is wrong with a cut; with `audio`, its files are looked at, too: their headers and last samples."""
    return chain(_check_times(cut), _check_text(cut), _check_recordings(cut, audio=audio))


def _check_times(cut: Cut) -> Found:
    if cut.duration <= 0 or getattr(cut, "start", 0) < 0:
        yield (
            f"the cut starts at {getattr(cut, 'start', 0):g} s and lasts {cut.duration:g} s",
            "mend its times",
        )
    segments = sorted(cut.supervisions, key=lambda segment: segment.start)
    for segment in segments:
        if segment.duration <= 0:
            yield f"supervision {segment.id} lasts {segment.duration:g} s", "mend or remove it"
        elif segment.end > cut.duration + TOLERANCE:
            by = segment.end - cut.duration
            yield f"supervision {segment.id} ends {by:.2f} s past the audio's end", "mend its times"
        if segment.start < -TOLERANCE:
            yield f"supervision {segment.id} starts {-segment.start:.2f} s before the cut", "mend its times"
    for before, after in pairwise(segments):
        if before.end > after.start + TOLERANCE:
            yield (
                f"supervisions {before.id} and {after.id} overlap",
                "cut them apart (cut.trim_to_supervisions)",
            )


def _check_text(cut: Cut) -> Found:
    if not cut.supervisions:
        yield "it has no supervision", "add its text, or remove it"
    for segment in cut.supervisions:
        text = segment.text or ""
        odd = {
            f"U+{ord(c):04X}"
            for c in text
            if c == "\N{REPLACEMENT CHARACTER}" or unicodedata.category(c) in ("Cc", "Co", "Cn")
        }
        if not text.strip():
            yield f"supervision {segment.id} is empty", "add its text, or remove it"
        elif odd:
            yield (
                f"text of {segment.id} has characters that no text has: {', '.join(sorted(odd))}",
                "mend its encoding",
            )
        elif not any(c.isalnum() for c in text):
            yield f"text of {segment.id} has no letter: {text!r}", "write what is said, or remove it"
        elif segment.duration > 0 and len(text) > max(10, CHARACTERS_PER_SECOND * segment.duration):
            yield (
                f"text of {segment.id} has {len(text)} characters in {segment.duration:.2f} s",
                "check that it is its text",
            )


def _check_recordings(cut: Cut, *, audio: bool) -> Found:
    for track in [track.cut for track in cut.tracks] if isinstance(cut, MixedCut) else [cut]:
        if not track.has_recording:
            if not isinstance(cut, MixedCut):  # a track of a mix may be padding
                yield "it has no recording", "make cuts from recordings: features are computed on the fly"
            continue
        recording = track.recording
        if track.end > recording.duration + TOLERANCE:
            yield (
                f"the cut ends {track.end - recording.duration:.2f} s past its recording's end",
                "mend its times",
            )
        if recording.transforms or not audio:  # the file's own length is before them; decoding tells
            continue
        for source in recording.sources:
            if source.type == "file":
                yield from _check_file(recording, str(source.source))


def _check_file(recording: Recording, path: str) -> Found:
    try:
        stat = Path(path).stat()
    except OSError:
        yield f"{path} is missing", "restore the file, or remove the line"
        return
    rate, samples, trouble = _header(path, stat.st_size, stat.st_mtime_ns)
    if trouble:
        yield f"{path} {trouble}", "replace the file, or remove the line"
    elif rate != recording.sampling_rate:
        yield (
            f"{path} has {rate} Hz, but the manifest says {recording.sampling_rate}",
            "prepare the corpus again",
        )
    elif abs(samples - recording.num_samples) > TOLERANCE * rate:
        found, said = samples / rate, recording.num_samples / recording.sampling_rate
        yield f"{path} lasts {found:.2f} s, but the manifest says {said:.2f} s", "prepare the corpus again"


@lru_cache(maxsize=4096)  # many cuts may come from one long recording
def _header(path: str, size: int, _changed: int) -> tuple[int, int, str]:
    """Sampling rate, samples, and what is wrong with a file ("" if nothing).

    Only FLAC promises an end in its header that a truncated file cannot reach; other formats' lengths are
    found by libsndfile from what is there (and a seek in Opus takes 5 ms).
    """
    if not size:
        return 0, 0, "is empty"
    try:
        file = soundfile.SoundFile(path)
    except (soundfile.LibsndfileError, OSError) as error:
        return 0, 0, f"is not audio ({str(error).split(': ')[-1].rstrip('.')})"
    with file:
        if not file.frames:
            return file.samplerate, 0, "holds no samples"
        try:
            whole = file.format != "FLAC" or (file.seek(file.frames - 1) >= 0 and len(file.read(1)) == 1)
        except soundfile.LibsndfileError:
            whole = False
        return file.samplerate, file.frames, "" if whole else "is truncated: its last samples are missing"
