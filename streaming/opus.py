"""Opus in Ogg (RFC 7845) and in WebM, from a growing stream: containers are taken apart here without decoding.

    packets = Demuxer()
    for record, seconds in packets.push(data): ...     # data cut anywhere
    samples = OpusDecoder().push(records)              # any number of whole records

A record is self-delimiting, so that records can be joined: a kind, a length, a payload. The kinds: the head
(`OpusHead`, which begins a stream), a packet, and the end's limit (samples of the stream in all, by Ogg's last
granule position). Memory is bounded by one page or one block; what is neither container is an AudioError within
the first bytes. Not checked: Ogg's checksums, as what carries the stream has its own. Not used: WebM's
DiscardPadding, some milliseconds of padding after the end.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from asr.errors import AudioError

__all__ = ["Demuxer", "OpusDecoder", "packet_samples"]

OPUS_RATE = 48_000
_RECORD = struct.Struct("<cI")
_HEAD, _PACKET, _LIMIT = b"H", b"P", b"L"
_LONGEST_PACKET = 61_440  # bytes: 48 frames of 1275 and their lengths, rounded up
_LONGEST_SAMPLES = 5_760  # 120 ms

Record = tuple[bytes, float]
"""The record's bytes and the seconds of audio that they hold."""


def _record(kind: bytes, payload: bytes, samples: int = 0) -> Record:
    return _RECORD.pack(kind, len(payload)) + payload, samples / OPUS_RATE


def packet_samples(packet: bytes) -> int:
    """Length of an Opus packet in samples of 48 kHz (RFC 6716, section 3.1). AudioError for what is none."""
    if not packet:
        raise _broken("an empty Opus packet")
    config, code = packet[0] >> 3, packet[0] & 3
    if config < 12:
        size = (480, 960, 1920, 2880)[config & 3]
    elif config < 16:
        size = (480, 960)[config & 1]
    else:
        size = (120, 240, 480, 960)[config & 3]
    if code == 3 and len(packet) < 2:
        raise _broken("an Opus packet without its frame count")
    samples = size * ((1, 2, 2)[code] if code < 3 else packet[1] & 63)
    if not 0 < samples <= _LONGEST_SAMPLES:
        raise _broken("an Opus packet of impossible length")
    return samples


class _Container(Protocol):
    def push(self, data: bytes) -> Iterator[Record]: ...


class Demuxer:
    """Ogg or WebM, told apart by the first four bytes."""

    def __init__(self) -> None:
        self._container: _Container | None = None
        self._first = b""

    def push(self, data: bytes) -> Iterator[Record]:
        """Raises AudioError for a stream that is neither, or broken, or holds no Opus."""
        if self._container is None:
            self._first += data
            if len(self._first) < 4:
                return
            data, self._first = self._first, b""
            match data[:4]:
                case b"OggS":
                    self._container = _Ogg()
                case b"\x1aE\xdf\xa3":
                    self._container = _WebM()
                case _:
                    raise _broken("this is neither Ogg nor WebM")
        yield from self._container.push(data)


class _Ogg:
    """Pages (RFC 3533) of the first logical stream that holds Opus."""

    _HEADER = struct.Struct("<4sBBqIIIB")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._serial: int | None = None
        self._packet = bytearray()  # which goes on in the next page
        self._headers = 0  # seen of the two: OpusHead and OpusTags
        self._samples = 0
        self._offset: int | None = None  # granule position of the stream's first sample

    def push(self, data: bytes) -> Iterator[Record]:
        self._buffer += data
        while len(self._buffer) >= self._HEADER.size:
            magic, version, flags, granule, serial, _, _, segments = self._HEADER.unpack_from(self._buffer)
            if magic != b"OggS" or version != 0:
                raise _broken("lost the beginning of an Ogg page")
            start = self._HEADER.size + segments
            lacing = bytes(self._buffer[self._HEADER.size : start])
            size = start + sum(lacing)
            if len(lacing) < segments or len(self._buffer) < size:
                return
            body = bytes(self._buffer[start:size])
            del self._buffer[:size]
            yield from self._page(flags, granule, serial, lacing, body)

    def _page(self, flags: int, granule: int, serial: int, lacing: bytes, body: bytes) -> Iterator[Record]:
        if flags & 2 and body.startswith(b"OpusHead"):  # also where one stream is chained to another
            self._serial, self._headers, self._samples, self._offset = serial, 0, 0, None
            self._packet.clear()
        elif self._serial is None and not flags & 2:
            raise _broken("the Ogg stream holds no Opus audio")
        if serial != self._serial:
            return
        packets = []
        if not flags & 1:
            self._packet.clear()
        position = 0
        for length in lacing:
            self._packet += body[position : position + length]
            position += length
            if self._headers >= 2 and len(self._packet) > _LONGEST_PACKET:
                raise _broken("an Opus packet too long to be one")
            if length < 255:
                packets.append(bytes(self._packet))
                self._packet.clear()
        if self._headers < 2 and len(self._packet) > 1 << 20:
            raise _broken("the Ogg stream's comments never end")
        while packets and self._headers < 2:
            packet, self._headers = packets.pop(0), self._headers + 1
            if self._headers == 1:
                yield _record(_HEAD, packet)
        total = sum(map(packet_samples, packets))
        self._samples += total
        if self._offset is None and packets and granule >= 0:
            self._offset = 0 if flags & 4 else max(0, granule - self._samples)
        if flags & 4 and granule >= 0 and self._offset is not None and granule >= self._offset:
            yield _record(_LIMIT, struct.pack("<Q", granule - self._offset))
        for packet in packets:
            yield _record(_PACKET, packet, packet_samples(packet))


class _WebM:
    """EBML elements (RFC 8794) of the first track that holds Opus, blocks without lacing."""

    _INSIDE = frozenset({0x18538067, 0x1654AE6B, 0x1F43B675, 0xA0})  # Segment, Tracks, Cluster, BlockGroup
    _TRACK, _NUMBER, _CODEC, _PRIVATE = 0xAE, 0xD7, 0x86, 0x63A2
    _CLUSTER, _BLOCKS = 0x1F43B675, (0xA3, 0xA1)
    _WANTED = frozenset({_NUMBER, _CODEC, _PRIVATE, *_BLOCKS})

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._skip = 0
        self._tracks: list[dict[int, bytes]] = []
        self._number: int | None = None

    def push(self, data: bytes) -> Iterator[Record]:
        self._buffer += data
        while True:
            skipped = min(self._skip, len(self._buffer))
            del self._buffer[:skipped]
            self._skip -= skipped
            if (found := self._element()) is None:
                return
            name, size, start = found
            if name in self._INSIDE or name == self._TRACK:
                del self._buffer[:start]
                yield from self._enter(name)
                continue
            if size is None:
                raise _broken("a WebM element without a size")
            if name not in self._WANTED:
                self._skip = start + size
                continue
            if size > _LONGEST_PACKET + 16:
                raise _broken("a WebM block too long for audio")
            if len(self._buffer) < start + size:
                return
            payload = bytes(self._buffer[start : start + size])
            del self._buffer[: start + size]
            yield from self._leaf(name, payload)

    def _enter(self, name: int) -> Iterator[Record]:
        if name == self._TRACK:
            if len(self._tracks) >= 100:
                raise _broken("a WebM stream of too many tracks")
            self._tracks.append({})
        elif name == self._CLUSTER and self._number is None:
            opus = next((x for x in self._tracks if x.get(self._CODEC, b"").rstrip(b"\0") == b"A_OPUS"), None)
            if opus is None or self._NUMBER not in opus:
                raise _broken("the WebM stream holds no Opus audio")
            self._number = int.from_bytes(opus[self._NUMBER], "big")
            yield _record(_HEAD, opus.get(self._PRIVATE, b""))

    def _leaf(self, name: int, payload: bytes) -> Iterator[Record]:
        if name not in self._BLOCKS:
            if self._tracks:
                self._tracks[-1][name] = payload
            return
        track = _vint(payload, 0)
        if track is None or len(payload) < track[1] + 3:
            raise _broken("a WebM block cut short")
        number, start = track
        if number == self._number:
            if payload[start + 2] & 0x06:
                raise _broken("a WebM block with lacing")
            packet = payload[start + 3 :]
            yield _record(_PACKET, packet, packet_samples(packet))

    def _element(self) -> tuple[int, int | None, int] | None:
        """The next element's name, size (`None`: not known) and where its content begins; `None`: more is needed."""
        if self._skip or not self._buffer:
            return None
        name = _vint(self._buffer, 0, marked=True, longest=4)
        if name is None:
            return None
        size = _vint(self._buffer, name[1])
        if size is None:
            return None
        width = size[1] - name[1]
        return name[0], None if size[0] == (1 << 7 * width) - 1 else size[0], size[1]


def _vint(
    data: bytes | bytearray, at: int, *, marked: bool = False, longest: int = 8
) -> tuple[int, int] | None:
    """A number of variable length at `at`, with or without its marker bit, and where it ends."""
    if at >= len(data):
        return None
    width = 9 - data[at].bit_length()
    if width > longest:
        raise _broken("lost the beginning of a WebM element")
    if at + width > len(data):
        return None
    value = int.from_bytes(data[at : at + width], "big")
    return value if marked else value & ((1 << 7 * width) - 1), at + width


class OpusDecoder:
    """Records -> mono float32 samples of 48 kHz, by FFmpeg's decoder in PyAV (`pip install rill-asr[opus]`)."""

    rate = OPUS_RATE

    def __init__(self) -> None:
        try:
            import av  # heavy, and needed by streams of Opus only
        except ImportError as error:
            raise AudioError(
                "this server cannot decode Opus, as it lacks the package av (pip install rill-asr[opus]); "
                "send s16le instead"
            ) from error
        self._av = av
        self._context: Any = None
        self._skip = 0
        self._decoded = 0
        self._limit: int | None = None

    def push(self, records: bytes) -> np.ndarray:
        """Whole records -> (n,). Raises AudioError for packets that cannot be decoded."""
        parts, position = [np.zeros(0, np.float32)], 0
        while position < len(records):
            kind, size = _RECORD.unpack_from(records, position)
            position += _RECORD.size
            payload = records[position : position + size]
            position += size
            match kind:
                case b"H":
                    self._open(payload)
                case b"L":
                    (self._limit,) = struct.unpack("<Q", payload)
                case _:
                    parts.append(self._decode(payload))
        return np.concatenate(parts)

    def _open(self, head: bytes) -> None:
        if len(head) < 19 or head[:8] != b"OpusHead" or not 1 <= head[9] <= 8:
            raise _broken("the head of the Opus stream")
        self._skip = int.from_bytes(head[10:12], "little")
        self._decoded, self._limit = 0, None
        # The decoder would leave the pre-skip out itself, but by rules that differ between its versions.
        head = head[:10] + b"\0\0" + head[12:]
        try:
            self._context = self._av.CodecContext.create("opus", "r")
            self._context.extradata = head
            self._context.open()
        except (self._av.error.FFmpegError, ValueError) as error:
            raise _broken("the head of the Opus stream") from error

    def _decode(self, packet: bytes) -> np.ndarray:
        if self._context is None:
            raise _broken("Opus without its head")
        try:
            frames = self._context.decode(self._av.Packet(packet))
        except self._av.error.FFmpegError as error:
            raise _broken("an Opus packet that cannot be decoded") from error
        parts = [np.zeros(0, np.float32)]
        for frame in frames:
            samples = frame.to_ndarray().mean(axis=0, dtype=np.float32)  # planar floats: (channels, samples)
            begin, self._decoded = self._decoded, self._decoded + len(samples)
            end = len(samples) if self._limit is None else max(0, self._limit - begin)
            parts.append(samples[max(0, self._skip - begin) : end])
        return np.concatenate(parts)


def _broken(what: str) -> AudioError:
    return AudioError(f"{what}: send Opus in Ogg or WebM, unbroken from its first byte")
