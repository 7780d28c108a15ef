"""What clients' bytes are as audio: PCM, G.711, Opus in a container -> 16 kHz mono samples.

Two halves, as they work in two threads. A `Splitter` cuts messages into pieces whose seconds are known, and does
no arithmetic on samples: it belongs to the event loop. A `Decoder` makes samples of joined pieces: it belongs to
the engine's thread. Whatever the messages' sizes, the samples are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from asr.audio import Resampler, blocks, decode_pcm
from asr.errors import AudioError
from streaming.events import Options
from streaming.opus import Demuxer, OpusDecoder

__all__ = ["Decoder", "Splitter", "decoder", "file_blocks", "splitter"]


class Splitter(Protocol):
    def push(self, data: bytes) -> Iterator[tuple[bytes, float]]:
        """A message of any length -> pieces of at most about half a second, with their seconds.

        Raises AudioError: half a sample, or what is not the container that was named.
        """
        ...


class Decoder(Protocol):
    @property
    def seconds(self) -> float:
        """Of audio heard so far."""
        ...

    def push(self, data: bytes) -> np.ndarray:
        """Any number of a `Splitter`'s pieces -> (n,) float32 of 16 kHz. AudioError: not numbers, not Opus ..."""
        ...

    def finish(self) -> np.ndarray:
        """The samples still inside."""
        ...


def splitter(options: Options, *, seconds: float = 0.5) -> Splitter:
    """Keeps a client's backlog to its limit: pieces wait one by one until there is room for them."""
    return _Containers(seconds) if options.encoding == "container" else _Pieces(options, seconds)


def decoder(options: Options) -> Decoder:
    """Raises AudioError where a library is missing."""
    if options.encoding == "container":
        return _Contained()
    return _Raw(options)


def file_blocks(path: Path) -> Iterator[np.ndarray]:
    """A whole file -> 16 kHz mono in blocks (n,). Raises AudioError.

    What libsndfile reads is the samples of `asr.audio.read`; WebM and MP4 go through PyAV.
    """
    with path.open("rb") as file:
        head = file.read(12)
    if head[:4] == b"\x1aE\xdf\xa3" or head[4:8] == b"ftyp":
        yield from _media_blocks(path)
    else:
        yield from blocks(path)


def _media_blocks(path: Path) -> Iterator[np.ndarray]:
    try:
        import av
    except ImportError as error:
        raise AudioError("WebM and MP4 need the package av on the server: send FLAC, Ogg or WAV") from error
    resampler: Resampler | None = None
    try:
        with av.open(str(path)) as media:
            if not media.streams.audio:
                raise AudioError("the file holds no audio")
            to_float = av.AudioResampler(format="fltp")
            for frame in media.decode(media.streams.audio[0]):
                for part in to_float.resample(frame):
                    if resampler is None:
                        resampler = Resampler(part.sample_rate)
                    yield resampler.push(part.to_ndarray().mean(axis=0, dtype=np.float32))
    except av.error.FFmpegError as error:
        raise AudioError("the file is damaged, or not audio; convert it to FLAC, Ogg or WAV") from error
    if resampler is None:
        raise AudioError("the file holds no audio")
    yield resampler.finish()


class _Pieces:
    def __init__(self, options: Options, seconds: float) -> None:
        self._options = options
        self._size = max(1, int(options.sample_rate * seconds)) * options.frame_bytes

    def push(self, data: bytes) -> Iterator[tuple[bytes, float]]:
        options = self._options
        if len(data) % options.frame_bytes:
            raise AudioError(
                f"{len(data)} bytes are no whole number of samples: {options.encoding} of {options.channels} "
                f"channel(s) has {options.frame_bytes} bytes each; split between samples only"
            )
        for start in range(0, len(data), self._size):
            piece = data[start : start + self._size]
            yield piece, len(piece) / options.bytes_per_second


class _Containers:
    def __init__(self, seconds: float) -> None:
        self._demuxer = Demuxer()
        self._seconds = seconds

    def push(self, data: bytes) -> Iterator[tuple[bytes, float]]:
        piece, held = bytearray(), 0.0
        for record, seconds in self._demuxer.push(data):
            piece += record
            held += seconds
            if held >= self._seconds:
                yield bytes(piece), held
                piece, held = bytearray(), 0.0
        if piece:
            yield bytes(piece), held


class _Raw:
    def __init__(self, options: Options) -> None:
        self._options = options
        self._resampler = Resampler(options.sample_rate)
        self._frames = 0

    @property
    def seconds(self) -> float:
        return self._frames / self._options.sample_rate

    def push(self, data: bytes) -> np.ndarray:
        samples = _samples(data, self._options)
        if self._options.channels > 1:
            samples = samples.reshape(-1, self._options.channels).mean(axis=1, dtype=np.float32)
        self._frames += len(samples)
        return self._resampler.push(samples)

    def finish(self) -> np.ndarray:
        return self._resampler.finish()


class _Contained:
    def __init__(self) -> None:
        self._opus = OpusDecoder()
        self._resampler = Resampler(self._opus.rate)
        self._samples = 0

    @property
    def seconds(self) -> float:
        return self._samples / self._opus.rate

    def push(self, data: bytes) -> np.ndarray:
        samples = self._opus.push(data)
        self._samples += len(samples)
        return self._resampler.push(samples)

    def finish(self) -> np.ndarray:
        return self._resampler.finish()


def _samples(data: bytes, options: Options) -> np.ndarray:
    if len(data) % options.frame_bytes:
        raise AudioError(
            f"{len(data)} bytes are no whole number of {options.frame_bytes}-byte samples: "
            "split between samples only"
        )
    match options.encoding:
        case "s16le" | "f32le":
            return decode_pcm(data, options.encoding)
        case "mulaw":
            return _MULAW[np.frombuffer(data, np.uint8)]
        case "alaw":
            return _ALAW[np.frombuffer(data, np.uint8)]
        case "u8":
            return (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128
    raise AudioError(f"{options.encoding} is not raw audio")


def _mulaw() -> np.ndarray:
    """ITU-T G.711, mu-law: sign, exponent and mantissa of the inverted byte, biased by 132."""
    code = ~np.arange(256, dtype=np.uint8)
    value = ((((code & 15).astype(np.int32) << 3) + 132) << ((code >> 4) & 7)) - 132
    return (np.where(code & 128, -value, value) / 32768).astype(np.float32)


def _alaw() -> np.ndarray:
    """ITU-T G.711, A-law: even bits inverted, no bias in the lowest segment."""
    code = np.arange(256, dtype=np.uint8) ^ 0x55
    exponent = ((code >> 4) & 7).astype(np.int32)
    value = ((code & 15).astype(np.int32) << 4) + 8
    value = np.where(exponent > 0, (value + 256) << np.maximum(exponent - 1, 0), value)
    return (np.where(code & 128, value, -value) / 32768).astype(np.float32)


_MULAW, _ALAW = _mulaw(), _alaw()
