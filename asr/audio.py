"""Audio: any file that libsndfile knows as 16 kHz mono samples, resampled streams, the constants of time.

However a recording arrives, whole, in blocks or in packets, it goes through one `Resampler`, so the samples
are the same to the bit.
"""

from __future__ import annotations

import codecs
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, TypeAlias

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from asr.errors import AudioError

__all__ = [
    "FRAMES_PER_SECOND",
    "HOP",
    "RATES",
    "SAMPLE_RATE",
    "WINDOW",
    "AudioInfo",
    "Resampler",
    "Samples",
    "blocks",
    "decode_pcm",
    "info",
    "read",
    "split",
]

SAMPLE_RATE = 16_000
HOP = 160
WINDOW = 400
FRAMES_PER_SECOND = SAMPLE_RATE // HOP

RATES = (4_000, 384_000)
LOUDEST = 16.0  # no decoder overshoots this far: beyond it, the numbers are not samples in [-1, 1]
UNKNOWN_LENGTH = 1 << 62
MP3_SLACK = 2304  # samples, two frames: what an encoder's padding may add to the length in a tag
WAV_SLACK = 64  # bytes: some writers count a little wrong
STREAMED = 0x7FFF_0000  # a stated size from here on means "written to a pipe, read to the end"
EXACT_SEEK = ("WAV", "WAVEX", "RF64", "W64", "FLAC", "AIFF", "AU", "CAF", "NIST")

Samples: TypeAlias = NDArray[np.float32]
Channel: TypeAlias = int | Literal["mix"]
PathLike: TypeAlias = str | os.PathLike[str]


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header states: sample_rate in Hz, channels, duration in seconds."""

    sample_rate: int
    channels: int
    duration: float


class Resampler:
    """A stream at `rate` Hz -> 16 kHz, by soxr, high quality. n samples give round(n * 16000 / rate) in all.

    Output does not depend on how the stream is cut into packets, to the bit: soxr gets it in blocks of 10 ms.
    It lags the input by up to 45 ms from 44.1 or 48 kHz and 120 ms from 8 kHz; `finish` brings the rest.
    Samples beyond [-1, 1] are clipped. Raises AudioError for a rate outside 4 to 384 kHz.
    """

    def __init__(self, rate: int) -> None:
        if not RATES[0] <= rate <= RATES[1]:
            raise AudioError(f"sample rate {rate} Hz: it must lie between {RATES[0]} and {RATES[1]}")
        self.rate = rate
        self._soxr = soxr.ResampleStream(rate, SAMPLE_RATE, 1, "float32") if rate != SAMPLE_RATE else None
        self._block = rate // FRAMES_PER_SECOND
        self._pending = np.zeros(0, np.float32)
        self._received = self._sent = 0
        self._finished = False

    def push(self, samples: Samples) -> Samples:
        """(n,) samples at `rate` -> (m,) at 16 kHz, as many as are ready. ValueError after `finish`."""
        samples = np.asarray(samples, np.float32)
        if samples.ndim != 1:
            raise ValueError(f"Resampler.push takes samples of shape (n,), not {samples.shape}")
        if self._finished:
            raise ValueError("Resampler.push after finish")
        self._received += len(samples)
        if self._soxr is None:
            return self._send([samples])
        pending = np.concatenate([self._pending, samples])
        whole = len(pending) // self._block * self._block
        self._pending = pending[whole:].copy()
        return self._send(
            [self._soxr.resample_chunk(pending[i : i + self._block]) for i in range(0, whole, self._block)]
        )

    def finish(self) -> Samples:
        """The samples still inside; nothing can be pushed after this."""
        if self._soxr is None or self._finished:
            self._finished = True
            return np.zeros(0, np.float32)
        self._finished = True
        rest = self._soxr.resample_chunk(self._pending, last=True)
        missing = round(self._received * SAMPLE_RATE / self.rate) - self._sent
        return self._send([np.pad(rest[:missing], (0, max(0, missing - len(rest))))])

    def _send(self, parts: list[Samples]) -> Samples:
        out = np.concatenate([np.zeros(0, np.float32), *parts]).clip(-1.0, 1.0)
        self._sent += len(out)
        return out


def read(
    path: PathLike, *, channel: Channel = "mix", start: float = 0.0, duration: float | None = None
) -> Samples:
    """A file -> (samples,) float32 in [-1, 1], mono, 16 kHz.

    channel: a channel's number from 0, or "mix" for their mean. start, duration: seconds; a file that ends
    sooner gives fewer samples. A part equals the same slice of the whole within 1e-6.
    Raises AudioError, naming the file and the remedy: no such file, empty, not audio, damaged or cut short,
    a channel that is not there, a start beyond the end.
    """
    if not start >= 0 or (duration is not None and not duration > 0):
        raise AudioError(f"{path}: start {start} s and duration {duration} s: use 0 or more, and more than 0")
    first, skip = round(start * SAMPLE_RATE), 0
    last = first + round(duration * SAMPLE_RATE) if duration is not None else 1 << 62
    parts: list[Samples] = []
    position = 0
    with _File(path) as file:
        if file.seeks_exactly and 2 <= start < file.duration:
            # A second before the part is resampled too, so that the filter sees what it would have seen.
            skip = int(start) - 1
            position = skip * SAMPLE_RATE
        for samples in file.mono(channel, skip):
            parts.append(samples[max(0, first - position) : max(0, last - position)])
            position += len(samples)
            if position >= last:
                break
    if first > 0 and position <= first:
        raise AudioError(f"{path}: start {start:g} s lies beyond the end, {position / SAMPLE_RATE:g} s")
    return np.concatenate([np.zeros(0, np.float32), *parts])


def blocks(path: PathLike, *, seconds: float = 30.0, channel: Channel = "mix") -> Iterator[Samples]:
    """The samples of `read`, to the bit, in blocks of `seconds` (the last may be shorter), in bounded memory.

    Raises AudioError as `read` does; for a damaged file, after the blocks before the damage.
    """
    size = round(seconds * SAMPLE_RATE)
    if size < 1:
        raise AudioError(f"{path}: blocks of {seconds} s: use more than 0")
    parts: list[Samples] = []
    waiting = 0
    with _File(path) as file:
        for samples in file.mono(channel):
            parts.append(samples)
            waiting += len(samples)
            if waiting >= size:
                joined = np.concatenate(parts)
                whole = waiting // size * size
                yield from (joined[i : i + size].copy() for i in range(0, whole, size))
                parts, waiting = [joined[whole:]], waiting - whole
    if waiting:
        yield np.concatenate(parts)


def split(path: PathLike) -> Samples:
    """A file -> (channels, samples) float32; row i is `read(path, channel=i)`. AudioError as `read`."""
    with _File(path) as file:
        resamplers = [Resampler(file.sample_rate) for _ in range(file.channels)]
        parts: list[list[Samples]] = [[] for _ in resamplers]
        for native in file.native():
            for i, resampler in enumerate(resamplers):
                parts[i].append(resampler.push(native[:, i]))
    return np.stack([np.concatenate([*p, r.finish()]) for p, r in zip(parts, resamplers, strict=True)])


def info(path: PathLike) -> AudioInfo:
    """What the header states, without decoding: a file cut short may hold less. AudioError as `read`."""
    with _File(path) as file:
        return AudioInfo(file.sample_rate, file.channels, file.duration)


def decode_pcm(data: bytes, encoding: Literal["s16le", "f32le"]) -> Samples:
    """Raw PCM bytes -> (n,) float32.

    Raises AudioError if the bytes are no whole number of samples, or floats are not numbers near [-1, 1].
    """
    if encoding not in ("s16le", "f32le"):
        raise AudioError(f"encoding {encoding!r}: use s16le or f32le")
    size = 2 if encoding == "s16le" else 4
    if len(data) % size:
        raise AudioError(f"{len(data)} bytes are no whole number of {encoding} samples of {size} bytes each")
    if encoding == "s16le":
        return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768)
    samples = np.frombuffer(data, "<f4").astype(np.float32)
    problem = _problem(samples)
    if problem:
        raise AudioError(f"f32le samples {problem}: is the audio really 32-bit float, in [-1, 1]?")
    return samples


class _File:
    """An open audio file, whose every failure is an AudioError that names it."""

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise AudioError(f"{path}: " + ("not a file" if self.path.exists() else "no such file"))
        try:
            with self.path.open("rb") as file:
                head = file.read(4096)
        except OSError as error:
            raise AudioError(f"{path}: cannot be opened: {error.strerror}") from error
        if not head:
            raise AudioError(f"{path}: the file is empty (0 bytes); copy it again from its source")
        try:
            self._file = soundfile.SoundFile(self.path)
        except (soundfile.SoundFileError, TypeError) as error:  # TypeError: for it, .raw means "no header"
            if _is_text(head):
                raise AudioError(f"{path}: this is text, not audio") from error
            raise AudioError(
                f"{path}: not audio that libsndfile reads ({_reason(error)}); convert it, for instance: "
                f"ffmpeg -i {self.path.name} -ar 16000 {self.path.stem}.flac"
            ) from error
        self.sample_rate: int = self._file.samplerate
        self.channels: int = self._file.channels
        self.frames: int = self._file.frames
        self.duration = self.frames / self.sample_rate
        self.seeks_exactly = self._file.format in EXACT_SEEK
        self._slack = 0
        try:
            self._check_header()
        except AudioError:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def mono(self, channel: Channel, skip: int = 0) -> Iterator[Samples]:
        """One channel or the mean of all at 16 kHz, from `skip` seconds on."""
        if channel != "mix" and channel not in range(self.channels):
            raise AudioError(
                f"{self.path}: no channel {channel!r}: it has {self.channels}, numbered from 0; or use mix"
            )
        resampler = Resampler(self.sample_rate)
        for native in self.native(skip):
            yield resampler.push(native.mean(axis=1) if channel == "mix" else native[:, channel])
        yield resampler.finish()

    def native(self, skip: int = 0) -> Iterator[Samples]:
        """A second a time, (samples, channels), checked, at the file's own rate, from `skip` seconds on."""
        position = min(skip * self.sample_rate, self.frames)
        try:
            if position:
                self._file.seek(position)
            while len(samples := self._file.read(self.sample_rate, dtype="float32", always_2d=True)):
                problem = _problem(samples)
                if problem:
                    where = f"from {position / self.sample_rate:.1f} s on"
                    raise AudioError(f"{self.path}: samples {where} {problem}; convert it again")
                position += len(samples)
                yield samples
        except soundfile.SoundFileError as error:
            raise self._cut_short(f"{self._seconds(position)} could be read ({_reason(error)})") from error
        if position < self.frames - self._slack:
            raise self._cut_short(f"{self._seconds(position)} could be read")

    def _check_header(self) -> None:
        if not RATES[0] <= self.sample_rate <= RATES[1]:
            raise AudioError(
                f"{self.path}: its header states {self.sample_rate} Hz, outside {RATES[0]} to {RATES[1]}; "
                "convert it, or mend the header"
            )
        if self.frames >= UNKNOWN_LENGTH:
            raise AudioError(
                f"{self.path}: its header states no length, as when written to a pipe; write it again, "
                f"for instance: ffmpeg -i {self.path.name} {self.path.stem}.new{self.path.suffix}"
            )
        if self._file.format == "MP3":
            # Only an encoder's tag states an MP3's length. Without one, libsndfile guesses from one frame.
            self._slack = MP3_SLACK if self._has_mp3_tag() else self.frames
        elif self._file.format in ("WAV", "WAVEX"):
            # libsndfile takes what is there for the whole, without a word.
            stated, held = self._wav_bytes()
            if held < stated - WAV_SLACK:
                raise self._cut_short(f"{held} of {stated} bytes of samples are there")
        if self.frames <= 0:
            raise AudioError(f"{self.path}: it holds no samples; record or convert it again")

    def _has_mp3_tag(self) -> bool:
        with self.path.open("rb") as file:
            head = file.read(10)
            if head[:3] == b"ID3":  # its size is four times seven bits
                file.seek(sum(byte << 7 * (3 - i) for i, byte in enumerate(head[6:10])), os.SEEK_CUR)
            first = file.read(512)
        return b"Xing" in first or b"Info" in first

    def _wav_bytes(self) -> tuple[int, int]:
        """The size that the header states for the samples, and the bytes that the file has for them."""
        total = self.path.stat().st_size
        with self.path.open("rb") as file:
            position = 12
            if file.read(4) != b"RIFF":
                return 0, 0
            while position + 8 <= total:
                file.seek(position)
                name, size = struct.unpack("<4sI", file.read(8))
                position += 8
                if name == b"data":
                    return (size if size < STREAMED else 0), total - position
                position += size + size % 2
        return 0, 0

    def _seconds(self, position: int) -> str:
        return f"{position / self.sample_rate:.2f} s of {self.duration:.2f} s"

    def _cut_short(self, what: str) -> AudioError:
        return AudioError(f"{self.path}: damaged or cut short: {what}; copy it again from its source")


def _reason(error: Exception) -> str:
    return str(error).rsplit(": ", 1)[-1].strip().rstrip(".")


def _is_text(head: bytes) -> bool:
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)  # the head may end inside a character
    except UnicodeDecodeError:
        return False
    return all(c.isprintable() or c.isspace() for c in text)


def _problem(samples: Samples) -> str:
    peak = float(np.abs(samples).max(initial=0.0))
    if not np.isfinite(peak):
        return "are not all finite numbers"
    return f"reach {peak:.3g}, but must lie in [-1, 1]" if peak > LOUDEST else ""
