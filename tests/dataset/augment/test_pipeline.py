from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from asr import config
from asr.dataset import DataConfig
from asr.dataset.augment import (
    Babble,
    BandLimit,
    Codec,
    CutMixConfig,
    Impulses,
    Noise,
    Pipeline,
    Room,
    SpecAugmentConfig,
    Speed,
    Volume,
)
from asr.dataset.augment.codec import TELEPHONE_CODECS, band, encoded
from asr.dataset.augment.noise import mix, recordings
from asr.errors import ConfigError, DataError

RATE = 16_000


def speech(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise with the long-term spectrum and the rhythm of speech, more or less."""
    random = np.random.default_rng(seed)
    wave = np.convolve(random.standard_normal(round(seconds * RATE)), np.ones(10) / 10, "same")
    syllables = 0.55 + 0.45 * np.sin(2 * np.pi * 4 * np.arange(len(wave)) / RATE)
    return (0.3 * wave * syllables).astype(np.float32)


def decibels(signal: np.ndarray, other: np.ndarray) -> float:
    return 10 * np.log10(np.mean(signal.astype(float) ** 2) / np.mean(other.astype(float) ** 2))


@pytest.fixture(scope="module")
def musan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("musan")
    for i, name in enumerate(["noise/free/a.wav", "music/b.flac", "speech/us/c.wav", "speech/us/d.wav"]):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rate = 22_050 if i == 1 else RATE
        soundfile.write(
            path, np.random.default_rng(i).uniform(-0.1, 0.1, (rate * (i + 1) // 2, 1 + i % 2)), rate
        )
    (folder / "README").write_text("not audio")
    return folder


@given(snr=st.floats(-10, 40), loud=st.floats(1e-3, 1.0), other=st.floats(1e-3, 1.0))
def test_the_ratio_of_signal_to_noise_is_the_one_asked_for(snr, loud, other):
    signal, noise = loud * speech(0.2), other * speech(0.2, seed=1)
    added = mix(signal, noise, snr).astype(float) - signal
    assert decibels(signal, added) == pytest.approx(snr, abs=0.05)


@pytest.mark.parametrize("kind", [Noise, Babble])
def test_noises_are_drawn_within_their_range(musan, kind):
    pipeline = Pipeline([kind(folder=musan, probability=1.0, snr=(3.0, 9.0))])
    clean = 0.1 * speech(1.0)
    found = [decibels(clean, pipeline(clean, np.random.default_rng(seed)) - clean) for seed in range(12)]
    assert 2.9 < min(found) < 5.5 < max(found) < 9.1


def test_the_layout_of_musan_is_known(musan, tmp_path):
    assert [path.name for path in recordings(musan, Noise.parts)] == ["b.flac", "a.wav"]
    assert [path.name for path in recordings(musan, Babble.parts)] == ["c.wav", "d.wav"]
    assert len(recordings(musan)) == len(recordings(musan, ("else",))) == 4
    with pytest.raises(DataError, match="data.augment: no audio in"):
        Pipeline([Noise(folder=tmp_path)])
    (tmp_path / "x.wav").write_text("text")
    with pytest.raises(DataError, match=r"x.wav cannot be read"):
        Pipeline([Noise(folder=tmp_path, probability=1.0)])(speech(0.1), np.random.default_rng(0))


def test_silence_and_nothing_pass(musan):
    steps = [Noise(folder=musan, probability=1.0), Room(probability=1.0), Codec(probability=1.0), Volume()]
    silence = np.zeros(4000, dtype=np.float32)
    out = Pipeline(steps)(silence, np.random.default_rng(0))
    assert len(out) == 4000 and np.abs(out).max() < 1e-3
    assert len(Pipeline(steps)(silence[:0], np.random.default_rng(0))) == 0


def every(musan: Path) -> list:
    return [
        Volume(decibels=(-20.0, 30.0)),
        Noise(folder=musan, probability=0.7),
        Babble(folder=musan, probability=0.7),
        Impulses(folder=musan, probability=0.5),
        Room(probability=0.5),
        Codec(probability=0.5, codecs=("mu_law", "a_law", "gsm", "adpcm", "opus", "vorbis", "mp3")),
        BandLimit(probability=0.5, rates=(8000, 11025)),
    ]


@given(length=st.integers(1, 9000), seed=st.integers(0, 1000), gain=st.sampled_from([0.0, 0.01, 1.0, 3.0]))
def test_lengths_stay_nothing_clips_and_the_generator_alone_decides(musan, length, seed, gain):
    pipeline = Pipeline(every(musan))
    clean = (gain * speech(0.6))[:length].astype(np.float32)
    before = clean.copy()
    out = pipeline(clean, np.random.default_rng(seed))
    assert out.shape == clean.shape and out.dtype == np.float32
    assert np.isfinite(out).all()
    assert np.array_equal(clean, before), "the input stays: it may be a cache's"
    assert out is clean or np.abs(out).max() <= 1.0 + 1e-6
    assert np.array_equal(out, pipeline(clean, np.random.default_rng(seed)))


def test_steps_come_in_the_list_s_order(musan):
    clean = speech(0.5)
    narrow = Pipeline([Noise(folder=musan, probability=1.0), BandLimit(probability=1.0)])
    wide = Pipeline([BandLimit(probability=1.0), Noise(folder=musan, probability=1.0)])

    def high(samples: np.ndarray) -> float:
        power = np.abs(np.fft.rfft(samples)) ** 2
        return float(power[len(power) * 5 // 8 :].sum() / power.sum())

    assert high(narrow(clean, np.random.default_rng(0))) < 1e-4 < high(wide(clean, np.random.default_rng(0)))


def test_probabilities_are_shares(musan):
    clean = speech(0.1)
    pipeline = Pipeline([Volume(probability=0.3)])
    changed = sum(pipeline(clean, np.random.default_rng(seed)) is not clean for seed in range(400))
    assert 90 < changed < 150


@pytest.mark.parametrize("codec", [*TELEPHONE_CODECS, "opus", "vorbis", "mp3"])
def test_codecs_keep_the_speech_in_its_place(codec):
    clean = speech(1.0)
    heard = encoded(clean, codec, 0.9)
    assert len(heard) == len(clean)
    assert decibels(clean, heard - clean) < 40, "something is lost"
    lags = np.fft.irfft(np.fft.rfft(heard, 1 << 16) * np.fft.rfft(clean, 1 << 16).conj())
    assert abs((int(lags.argmax()) + (1 << 15)) % (1 << 16) - (1 << 15)) <= 8
    assert np.corrcoef(clean, heard)[0, 1] > 0.8


def test_mu_law_is_that_of_g711():
    """Its table by the standard's own formula, on a signal that the telephone's rate holds."""
    steps = np.arange(1, 2000) / 16_000
    tone = (0.5 * np.sin(2 * np.pi * 440 * steps)).astype(np.float32)
    heard = encoded(tone, "mu_law", 0.0)
    error = heard[200:-200] - tone[200:-200]
    assert 30 < decibels(tone[200:-200], error) < 45, "about 38 dB over the whole range of levels"


@pytest.mark.parametrize("rate", [8000, 11025])
def test_a_band_limit_keeps_what_is_below_and_takes_what_is_above(rate):
    t = np.arange(RATE) / RATE
    for frequency, kept in ((0.35 * rate, 1.0), (0.6 * rate, 0.0)):
        tone = np.sin(2 * np.pi * frequency * t).astype(np.float32)
        level = np.sqrt(2 * np.mean(band(tone, rate)[2000:-2000] ** 2))
        assert level == pytest.approx(kept, abs=0.01)


YAML = """
train: [a.jsonl.gz, "https://example.org/shards"]
augment:
  - {kind: speed, factors: [0.9, 1.1]}
  - {kind: noise, folder: musan, snr: [5, 15], probability: 0.5}
  - {kind: room, t60: [0.2, 0.5]}
  - {kind: cutmix}
  - {kind: spec_augment, warp_frames: 80}
"""


def test_the_list_is_read_from_yaml(tmp_path):
    path = tmp_path / "data.yaml"
    path.write_text(YAML)
    read = config.load(DataConfig, path, overrides=["augment.1.probability=0.25"])
    assert read.augment == (
        Speed(factors=(0.9, 1.1)),
        Noise(folder=Path("musan"), snr=(5.0, 15.0), probability=0.25),
        Room(t60=(0.2, 0.5)),
        CutMixConfig(),
        SpecAugmentConfig(warp_frames=80),
    )
    assert read.speeds == (0.9, 1.1)
    assert str(read.train[1]) == "https://example.org/shards"
    path.write_text(config.to_yaml(read))
    assert config.load(DataConfig, path) == read
    with pytest.raises(
        ConfigError, match=r"unknown key augment.2.hight; the nearest known key is augment.2.height"
    ):
        config.load(DataConfig, path, overrides=["augment.2.hight=[2, 3]"])


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (Volume, {"probability": 1.5}, "between 0 and 1"),
        (Room, {"t60": (0.5, 0.2)}, "0.5 is above 0.2"),
        (Room, {"width": (0.5, 2.0)}, "no room of 0.5 m"),
        (Codec, {"codecs": ()}, "at least one"),
        (Codec, {"compression": (0.5, 1.0)}, "between 0 and 0.99"),
        (BandLimit, {"rates": (16000,)}, "below 16000"),
        (Speed, {"factors": ()}, "at least one"),
    ],
)
def test_values_that_make_no_sense_are_refused(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(**options)
