"""Reading, resampling and refusing audio: every format, every cut of a stream, every kind of damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asr import audio
from asr.audio import SAMPLE_RATE, Resampler
from asr.errors import AudioError

FORMATS = [
    ("a.wav", "PCM_16"),
    ("a.wav", "FLOAT"),
    ("a.flac", "PCM_16"),
    ("a.flac", "PCM_24"),
    ("a.ogg", "VORBIS"),
    ("a.opus", "OPUS"),
    ("a.mp3", "MPEG_LAYER_III"),
    ("a.aiff", "PCM_16"),
    ("a.au", "ULAW"),
]


def sound(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    """(samples, channels) of tones and some noise, each channel its own."""
    time = np.arange(round(seconds * rate)) / rate
    noise = 0.01 * np.random.default_rng(1).standard_normal((len(time), channels))
    tones = [0.3 * np.sin(2 * np.pi * (300 + 200 * c) * time) for c in range(channels)]
    return (np.stack(tones, 1) + noise).astype(np.float32)


def write(
    folder: Path, name: str, *, seconds: float, rate: int, channels: int = 1, subtype: str | None = None
) -> Path:
    path = folder / name
    kind = "OGG" if name.endswith(".opus") else None
    soundfile.write(path, sound(seconds, rate, channels), rate, format=kind, subtype=subtype)
    return path


# --- reading ---------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [8000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_any_rate_and_channels_become_16_khz_mono(tmp_path: Path, rate: int, channels: int) -> None:
    path = write(tmp_path, "a.wav", seconds=1.3, rate=rate, channels=channels, subtype="FLOAT")
    samples = audio.read(path)
    assert samples.dtype == np.float32
    assert samples.shape == (round(1.3 * SAMPLE_RATE),)
    expected = soxr.resample(sound(1.3, rate, channels).mean(axis=1), rate, SAMPLE_RATE)
    np.testing.assert_allclose(samples, expected, atol=1e-6)
    # The tone is where it was: a resampler fed with a wrong rate would move it.
    spectrum = np.abs(np.fft.rfft(audio.read(path, channel=0)))
    assert abs(spectrum.argmax() * SAMPLE_RATE / len(samples) - 300) < 2
    assert audio.info(path) == audio.AudioInfo(rate, channels, 1.3)


@pytest.mark.parametrize(("name", "subtype"), FORMATS)
@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (48_000, 2)])
def test_blocks_equal_the_whole(tmp_path: Path, name: str, subtype: str, rate: int, channels: int) -> None:
    path = write(tmp_path, name, seconds=3.1, rate=rate, channels=channels, subtype=subtype)
    whole = audio.read(path)
    assert len(whole) == round(3.1 * SAMPLE_RATE)
    original = audio.read(write(tmp_path, "original.wav", seconds=3.1, rate=rate, channels=channels))
    assert np.corrcoef(whole, original)[0, 1] > 0.98
    for seconds in (0.01, 0.7, 1.0, 2.3, 60.0):
        parts = list(audio.blocks(path, seconds=seconds))
        assert np.array_equal(np.concatenate(parts), whole)
        assert all(len(p) == round(seconds * SAMPLE_RATE) for p in parts[:-1])
        assert 0 < len(parts[-1]) <= round(seconds * SAMPLE_RATE)


@pytest.mark.parametrize(("name", "subtype"), FORMATS)
@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_a_part_equals_the_slice_of_the_whole(tmp_path: Path, name: str, subtype: str, rate: int) -> None:
    path = write(tmp_path, name, seconds=6.2, rate=rate, subtype=subtype)
    whole = audio.read(path)
    parts: list[tuple[float, float | None]] = [
        (0, 1),
        (0.5, None),
        (2, 0.25),
        (3.3, 2),
        (4.999, None),
        (5, 90),
    ]
    for start, duration in parts:
        first = round(start * SAMPLE_RATE)
        last = None if duration is None else first + round(duration * SAMPLE_RATE)
        part = audio.read(path, start=start, duration=duration)
        np.testing.assert_allclose(part, whole[first:last], atol=1e-6)


def test_channels_are_chosen_mixed_and_split(tmp_path: Path) -> None:
    path = write(tmp_path, "a.flac", seconds=1, rate=44_100, channels=3, subtype="PCM_24")
    rows = audio.split(path)
    assert rows.shape == (3, SAMPLE_RATE)
    for i in range(3):
        assert np.array_equal(rows[i], audio.read(path, channel=i))
    np.testing.assert_allclose(audio.read(path), rows.mean(axis=0), atol=1e-6)
    assert np.array_equal(np.concatenate(list(audio.blocks(path, channel=2, seconds=0.3))), rows[2])


def test_blocks_are_bounded_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more is decoded than the blocks that were asked for need."""
    path = write(tmp_path, "a.flac", seconds=30, rate=8000)
    decoded = 0
    original = soundfile.SoundFile.read

    def counting(file: soundfile.SoundFile, frames: int, **options: object) -> np.ndarray:
        nonlocal decoded
        out = original(file, frames, **options)
        decoded += len(out)
        return out

    monkeypatch.setattr(soundfile.SoundFile, "read", counting)
    stream = audio.blocks(path, seconds=2)
    next(stream)
    assert decoded <= 4 * 8000
    next(stream)
    assert decoded <= 6 * 8000


def test_samples_are_clipped(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.float32([0.5, 1.5, -3, 0]), SAMPLE_RATE, subtype="FLOAT")
    assert audio.read(path).tolist() == [0.5, 1, -1, 0]


# --- refusing --------------------------------------------------------------------------------


def refused(path: Path, *words: str) -> None:
    """Every way of reading fails alike, and the one-line message names the file and says the words."""
    for attempt in (audio.read, lambda p: list(audio.blocks(p)), audio.split):
        with pytest.raises(AudioError) as error:
            attempt(path)
        message = str(error.value)
        assert message.startswith(str(path))
        assert "\n" not in message
        for word in words:
            assert word in message


def test_no_file(tmp_path: Path) -> None:
    refused(tmp_path / "none.wav", "no such file")
    refused(tmp_path, "not a file")


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.touch()
    refused(path, "empty")
    soundfile.write(path, np.zeros(0), SAMPLE_RATE)
    refused(path, "no samples")


def test_text_named_wav(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_text("just some wörds\n" * 700, encoding="utf-8")
    refused(path, "text, not audio")


@pytest.mark.parametrize("name", ["a.wav", "a.raw", "a.m4a"])
def test_bytes_that_are_no_audio(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(bytes(range(256)) * 20)
    refused(path, "not audio", "ffmpeg")


@pytest.mark.parametrize("name", ["a.flac", "a.wav", "a.mp3"])
@pytest.mark.parametrize("kept", [0.9, 0.5, 0.2])
def test_cut_short(tmp_path: Path, name: str, kept: float) -> None:
    path = write(tmp_path, name, seconds=6, rate=16_000)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    refused(path, "cut short", "copy it again")


@pytest.mark.parametrize("name", ["a.flac", "a.opus", "a.wav"])
def test_cut_inside_the_header(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, name, seconds=2, rate=16_000)
    path.write_bytes(path.read_bytes()[:40])
    refused(path)


def test_damage_in_the_middle(tmp_path: Path) -> None:
    path = write(tmp_path, "a.flac", seconds=6, rate=16_000)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    path.write_bytes(content)
    refused(path, "damaged")


def test_blocks_before_the_damage_are_given(tmp_path: Path) -> None:
    path = write(tmp_path, "a.flac", seconds=8, rate=16_000)
    whole = audio.read(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    got = []
    with pytest.raises(AudioError, match="cut short"):
        got.extend(iter(audio.blocks(path, seconds=1)))
    # `extend` keeps what came before the error.
    assert 2 <= len(got) <= 4
    assert np.array_equal(np.concatenate(got), whole[: SAMPLE_RATE * len(got)])


def test_wav_written_to_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    path = write(tmp_path, "a.wav", seconds=1, rate=16_000)
    whole, content = audio.read(path), bytearray(path.read_bytes())
    at = content.index(b"data") + 4
    content[4:8] = content[at : at + 4] = b"\xff" * 4
    path.write_bytes(content)
    assert np.array_equal(audio.read(path), whole)


def test_flac_without_a_length(tmp_path: Path) -> None:
    path = write(tmp_path, "a.flac", seconds=1, rate=16_000)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # STREAMINFO's 36-bit number of samples
    content[22:26] = bytes(4)
    path.write_bytes(content)
    refused(path, "states no length", "ffmpeg")


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_mp3_without_a_tag_is_read_to_its_end(tmp_path: Path, mode: str) -> None:
    """Its length is a guess, too high here by far; that must not look like a damaged file."""
    path = tmp_path / "a.mp3"
    samples = np.concatenate([np.zeros((44_100 * 5, 1), np.float32), sound(5, 44_100)])
    soundfile.write(path, samples, 44_100, bitrate_mode=mode, compression_level=0.5)
    content = path.read_bytes()
    tagged = content[:64].find(b"Xing") > 0 or content[:64].find(b"Info") > 0
    assert tagged
    path.write_bytes(content[content.index(content[:2], 4) :])
    assert abs(len(audio.read(path)) - 10 * SAMPLE_RATE) < 0.1 * SAMPLE_RATE
    # With an ID3 tag before the encoder's, the length counts again.
    path.write_bytes(b"ID3\x04\0\0\0\0\x01\x00" + bytes(128) + content)
    assert len(audio.read(path)) == 10 * SAMPLE_RATE
    path.write_bytes(b"ID3\x04\0\0\0\0\x01\x00" + bytes(128) + content[: len(content) // 2])
    refused(path, "cut short")


def test_samples_that_are_no_samples(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    samples = sound(3, 16_000)
    samples[40_000] = np.nan
    soundfile.write(path, samples, SAMPLE_RATE, subtype="FLOAT")
    refused(path, "from 2.0 s on", "finite")
    soundfile.write(path, 32768 * sound(1, 16_000), SAMPLE_RATE, subtype="FLOAT")
    refused(path, "[-1, 1]")


def test_absurd_rate(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, sound(0.1, 8000), 12)
    refused(path, "12 Hz")


@pytest.mark.parametrize("channel", [2, -1])
def test_channel_out_of_range(tmp_path: Path, channel: int) -> None:
    path = write(tmp_path, "a.wav", seconds=0.1, rate=8000, channels=2)
    with pytest.raises(AudioError, match=rf"a\.wav: no channel {channel}: it has 2"):
        audio.read(path, channel=channel)
    with pytest.raises(AudioError, match="or use mix"):
        list(audio.blocks(path, channel="left"))  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "rate"), [("a.wav", 16_000), ("a.opus", 48_000)])
def test_start_beyond_the_end(tmp_path: Path, name: str, rate: int) -> None:
    path = write(tmp_path, name, seconds=3, rate=rate, subtype="OPUS" if name == "a.opus" else None)
    for start in (3.0, 3.5, 100):
        with pytest.raises(AudioError, match=r"beyond the end, 3 s"):
            audio.read(path, start=start)
    for options in ({"start": -1.0}, {"start": float("nan")}, {"duration": 0.0}, {"duration": float("nan")}):
        with pytest.raises(AudioError, match="use 0 or more"):
            audio.read(path, **options)
    with pytest.raises(AudioError, match="use more than 0"):
        list(audio.blocks(path, seconds=0))


# --- streams ---------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    rate=st.sampled_from([8000, 11_025, 12_345, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000]),
    packets=st.lists(st.integers(0, 2500), max_size=30),
)
@example(rate=48_000, packets=[1])
@example(rate=32_000, packets=[1, 1, 1])
@example(rate=44_100, packets=[])
@example(rate=8000, packets=[1] * 200)
def test_output_does_not_depend_on_packets(rate: int, packets: list[int]) -> None:
    total = sum(packets)
    samples = 0.1 * np.random.default_rng(total).standard_normal(total).astype(np.float32)
    whole, cut = Resampler(rate), Resampler(rate)
    expected = np.concatenate([whole.push(samples), whole.finish()])
    parts = [cut.push(p) for p in np.split(samples, np.cumsum(packets, dtype=int))]
    got = np.concatenate([*parts, cut.finish()])
    assert np.array_equal(got, expected)
    assert got.dtype == np.float32
    assert len(got) == round(total * SAMPLE_RATE / rate)
    if total:
        np.testing.assert_allclose(got, soxr.resample(samples, rate, SAMPLE_RATE)[: len(got)], atol=1e-6)


@pytest.mark.parametrize(("rate", "lag"), [(8000, 0.12), (44_100, 0.045), (48_000, 0.045)])
def test_lag_is_as_documented(rate: int, lag: float) -> None:
    resampler = Resampler(rate)
    received = sent = 0
    for _ in range(500):
        sent += len(resampler.push(np.zeros(rate // 100, np.float32)))
        received += rate // 100
        assert received / rate - sent / SAMPLE_RATE <= lag


def test_resampler_keeps_no_view_of_a_packet() -> None:
    packet = np.full(1000, 0.5, np.float32)
    for rate in (16_000, 8000):
        resampler = Resampler(rate)
        out = resampler.push(packet)
        before = out.copy()
        packet[:] = -1
        assert np.array_equal(out, before)
        packet[:] = 0.5


def test_resampler_refuses() -> None:
    for rate in (0, -8000, 3999, 1_000_000):
        with pytest.raises(AudioError, match=f"sample rate {rate} Hz"):
            Resampler(rate)
    resampler = Resampler(8000)
    with pytest.raises(ValueError, match="shape"):
        resampler.push(np.zeros((2, 2), np.float32))
    resampler.finish()
    assert len(resampler.finish()) == 0
    with pytest.raises(ValueError, match="after finish"):
        resampler.push(np.zeros(1, np.float32))


def test_a_session_and_a_file_give_the_same_samples(tmp_path: Path) -> None:
    path = write(tmp_path, "a.wav", seconds=2, rate=48_000, subtype="PCM_16")
    raw = path.read_bytes()[path.read_bytes().index(b"data") + 8 :]
    resampler = Resampler(48_000)
    parts = [resampler.push(audio.decode_pcm(raw[i : i + 998], "s16le")) for i in range(0, len(raw), 998)]
    assert np.array_equal(np.concatenate([*parts, resampler.finish()]), audio.read(path))


@given(st.binary(max_size=64).map(lambda b: b[: len(b) // 2 * 2]))
def test_s16_decodes(data: bytes) -> None:
    samples = audio.decode_pcm(data, "s16le")
    assert samples.dtype == np.float32
    assert np.array_equal((samples * 32768).astype("<i2"), np.frombuffer(data, "<i2"))
    assert np.abs(samples).max(initial=0) <= 1


def test_f32_decodes() -> None:
    values = np.array([0.25, -1, 1.5], "<f4")
    assert audio.decode_pcm(values.tobytes(), "f32le").tolist() == [0.25, -1, 1.5]


@pytest.mark.parametrize(
    ("data", "encoding", "message"),
    [
        (b"abc", "s16le", "3 bytes"),
        (b"abcdef", "f32le", "6 bytes"),
        (np.array([0.1, np.nan], "<f4").tobytes(), "f32le", "finite"),
        (np.array([np.inf], "<f4").tobytes(), "f32le", "finite"),
        (np.array([1000.0], "<f4").tobytes(), "f32le", "really 32-bit float"),
        (b"", "mulaw", "use s16le or f32le"),
    ],
)
def test_pcm_that_is_refused(data: bytes, encoding: str, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        audio.decode_pcm(data, encoding)  # type: ignore[arg-type]


def test_s16_taken_for_f32_is_noticed() -> None:
    """A client that names the wrong encoding hears of it with its first words."""
    pcm = (32768 * sound(0.2, 16_000)).astype("<i2").tobytes()
    with pytest.raises(AudioError, match="really 32-bit float"):
        audio.decode_pcm(pcm, "f32le")
