from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from asr import audio
from asr.errors import AudioError
from streaming.codecs import decoder, file_blocks, splitter
from streaming.events import Encoding, Ended, Final, Options
from streaming.opus import Demuxer, OpusDecoder, packet_samples
from streaming.session import run
from tests.streaming.toy_engine import ToyEngine, speech

ROOT = Path(__file__).parents[2]
OPUS = ROOT / "data" / "mini" / "audio" / "test" / "flite-000.opus"
CONTAINER = Options(encoding="container")


def cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[i : i + size] for i in range(0, len(data), size))


def decode(options: Options, data: bytes, size: int = 1 << 30) -> np.ndarray:
    pieces, samples = splitter(options), decoder(options)
    parts = [samples.push(piece) for message in cut(data, size) for piece, _ in pieces.push(message)]
    return np.concatenate([np.zeros(0, np.float32), *parts, samples.finish()])


def webm(path: Path, tmp_path: Path) -> bytes:
    """The packets of an Ogg file in another container."""
    av = pytest.importorskip("av")
    out = tmp_path / "talk.webm"
    with av.open(str(path)) as source, av.open(str(out), "w") as target:
        stream = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    return out.read_bytes()


@pytest.fixture(params=["ogg", "webm"])
def stream(request: pytest.FixtureRequest, tmp_path: Path) -> bytes:
    pytest.importorskip("av")
    return OPUS.read_bytes() if request.param == "ogg" else webm(OPUS, tmp_path)


# ---- G.711 and bytes


@pytest.mark.parametrize(("encoding", "subtype"), [("mulaw", "ULAW"), ("alaw", "ALAW"), ("u8", "PCM_U8")])
def test_every_code_is_what_libsndfile_makes_of_it(encoding: Encoding, subtype: str) -> None:
    codes = bytes(range(256))
    wanted, _ = soundfile.read(
        io.BytesIO(codes), samplerate=16_000, channels=1, format="RAW", subtype=subtype, dtype="float32"
    )
    assert np.array_equal(decode(Options(encoding=encoding), codes), wanted)


@pytest.mark.parametrize("encoding", ["s16le", "f32le", "u8", "mulaw", "alaw"])
@pytest.mark.parametrize("rate", [8000, 16_000, 44_100])
def test_packets_of_any_size_give_the_same_samples(encoding: Encoding, rate: int) -> None:
    rng = np.random.default_rng(0)
    options = Options(encoding=encoding, sample_rate=rate, channels=2)
    data = rng.integers(0, 256, 3000 * options.frame_bytes, np.uint8).tobytes()
    if encoding == "f32le":
        data = rng.uniform(-1, 1, 6000).astype("<f4").tobytes()
    whole = decode(options, data)
    assert len(whole) == round(3000 * 16_000 / rate)
    for size in (1, 7, 997):
        assert np.array_equal(decode(options, data, size * options.frame_bytes), whole)


def test_half_a_sample_is_an_error() -> None:
    with pytest.raises(AudioError, match="3 bytes are no whole number of samples"):
        decode(Options(), b"abc")


# ---- Opus


def test_opus_is_what_libsndfile_reads(stream: bytes) -> None:
    samples, wanted = decode(CONTAINER, stream), audio.read(OPUS)
    if stream[:4] == b"OggS":
        assert abs(len(samples) - len(wanted)) <= 1
    n = min(len(samples), len(wanted))
    assert n > 16_000
    # libsndfile lets the decoder work at 16 kHz; this one resamples from 48: the same but near the upper end.
    error, level = np.std(samples[:n] - wanted[:n]), np.std(wanted[:n])
    assert error < 0.05 * level


@pytest.mark.parametrize("size", [1, 13, 997])
def test_opus_cut_anywhere_gives_the_same_samples(stream: bytes, size: int) -> None:
    assert np.array_equal(decode(CONTAINER, stream, size), decode(CONTAINER, stream))


def test_the_seconds_of_pieces_are_those_of_the_samples(stream: bytes) -> None:
    pushing = splitter(CONTAINER)
    found = [seconds for message in cut(stream, 100_000) for _, seconds in pushing.push(message)]
    assert sum(found) == pytest.approx(len(decode(CONTAINER, stream)) / 16_000, abs=0.05)
    assert max(found) < 0.7


def test_a_session_takes_a_container(stream: bytes) -> None:
    events = list(run(ToyEngine(), CONTAINER, cut(stream, 333)))
    assert isinstance(events[-1], Ended)
    assert events[-1].duration == pytest.approx(audio.info(OPUS).duration, abs=0.03)
    tone = speech(3, 5, frames=5)
    file = io.BytesIO()
    soundfile.write(file, np.repeat(tone, 3), 48_000, format="OGG", subtype="OPUS")
    finals = [x for x in run(ToyEngine(), CONTAINER, cut(file.getvalue(), 50)) if isinstance(x, Final)]
    assert finals


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"RIFF" + bytes(100), "neither Ogg nor WebM"),
        (b"OggS" + bytes(60_000), "no Opus audio"),
        (b"OggS\x01" + bytes(100), "the beginning of an Ogg page"),
        (b"\x1aE\xdf\xa3" + bytes(100), "the beginning of a WebM element"),
        (b"\x1aE\xdf\xa3\x80\xa3\xff", "without a size"),
        (b"\x1aE\xdf\xa3\x80" + b"\x1fC\xb6u\xff" * 2, "no Opus audio"),
    ],
)
def test_what_is_no_opus_is_named(data: bytes, words: str) -> None:
    with pytest.raises(AudioError, match=words):
        list(Demuxer().push(data))


def test_damage_is_an_error_or_noise_never_more(stream: bytes) -> None:
    rng = np.random.default_rng(1)
    for _ in range(10):
        broken = bytearray(stream)
        for position in rng.integers(0, len(broken), 5):
            broken[position] = rng.integers(256)
        with contextlib.suppress(AudioError):
            assert np.abs(decode(CONTAINER, bytes(broken), 1000)).max(initial=0) <= 1


@settings(max_examples=200)
@given(
    st.sampled_from([b"OggS", b"OggS\0", b"\x1aE\xdf\xa3", b""]), st.binary(max_size=400), st.integers(1, 50)
)
def test_no_bytes_raise_anything_else(start: bytes, data: bytes, size: int) -> None:
    demuxer, opus = Demuxer(), None
    try:
        for message in cut(start + data, size):
            for record, seconds in demuxer.push(message):
                assert 0 <= seconds <= 0.12
                opus = opus or OpusDecoder()
                opus.push(record)
    except AudioError:
        pass


def test_memory_is_bounded_by_a_page() -> None:
    def page(flags: int) -> bytes:
        return b"OggS\0" + bytes([flags]) + bytes(8) + b"abcd" + bytes(8) + b"\xff" * 256 + body

    body = b"OpusHead".ljust(255 * 255, b"x")
    demuxer = Demuxer()
    list(demuxer.push(page(2)))
    with pytest.raises(AudioError, match="never end"):
        list(demuxer.push(page(1) * 20))


def test_lengths_of_packets() -> None:
    assert packet_samples(bytes([0b11111_000])) == 960
    assert packet_samples(bytes([0b00011_001])) == 5760
    assert packet_samples(bytes([0b10000_011, 4])) == 480
    for packet in (b"", bytes([0b11111_011]), bytes([0b11111_011, 0]), bytes([0b00011_011, 63])):
        with pytest.raises(AudioError):
            packet_samples(packet)


# ---- files


def test_a_file_is_read_as_everywhere() -> None:
    assert np.array_equal(np.concatenate(list(file_blocks(OPUS))), audio.read(OPUS))


def test_media_files(tmp_path: Path) -> None:
    data = webm(OPUS, tmp_path)
    path = tmp_path / "upload"
    path.write_bytes(data)
    samples = np.concatenate(list(file_blocks(path)))
    assert len(samples) == pytest.approx(audio.info(OPUS).duration * 16_000, abs=500)
    for damaged in (data[:100], data[:4] + bytes(100), bytes(4) + b"ftyp" + bytes(100)):
        path.write_bytes(damaged)
        with pytest.raises(AudioError, match="damaged|no audio"):
            list(file_blocks(path))


def test_a_server_without_the_library_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(AudioError, match=r"rill-asr\[opus\]"):
        decoder(CONTAINER)
