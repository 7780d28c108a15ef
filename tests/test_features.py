"""Features against kaldi-native-fbank, which shares no code with them, and streaming against offline."""

from __future__ import annotations

import os
from pathlib import Path

import kaldi_native_fbank
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr import audio, state
from asr.audio import HOP, SAMPLE_RATE
from asr.errors import ConfigError
from asr.features import LEFT, FeaturesConfig, LogMel

TOLERANCE = 1e-3
# Kaldi computes in float32, whose rounding is 1e-3 of a band that is this many nepers (of energy) below the
# frame's loudest: 78 dB. The few bands of real recordings that are quieter still are held to a looser bound.
DYNAMIC_RANGE = 18.0
TOLERANCE_BELOW = 5e-3


def kaldi(samples: np.ndarray, bins: int = 80) -> np.ndarray:
    """Kaldi's fbank, snip_edges=True, of samples with 240 zeros before them."""
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0
    options.mel_opts.num_bins = bins
    options.mel_opts.high_freq = -400
    extractor = kaldi_native_fbank.OnlineFbank(options)
    extractor.accept_waveform(SAMPLE_RATE, np.concatenate([np.zeros(LEFT, np.float32), samples]).tolist())
    extractor.input_finished()
    return np.array([extractor.get_frame(i) for i in range(extractor.num_frames_ready)])


def assert_close(ours: np.ndarray, expected: np.ndarray, what: str = "") -> None:
    assert ours.shape == expected.shape, what
    error = np.abs(ours - expected)
    heard = expected > expected.max(axis=1, keepdims=True) - DYNAMIC_RANGE
    assert error[heard].max() < TOLERANCE, what
    assert error.max() < TOLERANCE_BELOW, what
    assert heard.mean() > 0.95, what


def by_the_book(samples: np.ndarray) -> np.ndarray:
    """The recipe frame by frame in float64, nothing folded: (frames, 80)."""
    features = LogMel()
    padded = np.concatenate([np.zeros(LEFT), samples])
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** 0.85
    frames = []
    for i in range(len(samples) // HOP):
        frame = padded[HOP * i : HOP * i + 400]
        frame = frame - frame.mean()
        frame = np.concatenate([frame[:1] - 0.97 * frame[:1], frame[1:] - 0.97 * frame[:-1]]) * window
        power = np.abs(np.fft.rfft(frame, 512)) ** 2
        frames.append(np.log(np.maximum(power @ features.mel.numpy(), np.finfo(np.float32).eps)))
    return np.array(frames)


def synthetic() -> dict[str, np.ndarray]:
    noise = np.random.default_rng(0).standard_normal(2 * SAMPLE_RATE)
    time = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    tones = sum(np.sin(2 * np.pi * hz * time) for hz in (90, 440, 3200, 7300)) / 8
    return {
        "noise": 0.1 * noise,
        "noise_clipped": noise.clip(-1, 1),
        "noise_quiet": 1e-4 * noise,
        "tones_in_noise": tones + 0.01 * noise,
        "offset": 0.05 + 0.05 * noise,
        "chirp_in_noise": 0.3 * np.sin(2 * np.pi * 1000 * time**2) + 0.01 * noise,
        "silence": np.zeros(SAMPLE_RATE),
        "half_silence": np.where(time < 1, 0, 0.1 * noise),
    }


@pytest.mark.parametrize("name", synthetic())
@pytest.mark.parametrize("bins", [40, 80])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matches_kaldi_on_synthetic_sound(name: str, bins: int, dtype: torch.dtype) -> None:
    samples = synthetic()[name].astype(np.float32)
    expected = kaldi(samples, bins)
    ours = LogMel(FeaturesConfig(bins=bins)).to(dtype)(torch.from_numpy(samples)[None])[0]
    assert ours.dtype == dtype
    assert_close(ours.numpy(), expected)


@pytest.mark.parametrize(
    "corpus", ["an4/wav", "LibriSpeech", "speechocean762/WAVE", "robotutor-stories/audio"]
)
def test_matches_kaldi_on_real_speech(corpus: str) -> None:
    root = os.environ.get("RILL_CORPORA")
    if not root or not (Path(root) / corpus).is_dir():
        pytest.skip(f"RILL_CORPORA names no folder with {corpus}")
    files = sorted(p for p in (Path(root) / corpus).rglob("*") if p.suffix in (".flac", ".opus", ".wav"))
    assert files
    features = LogMel()
    for path in files[:: max(1, len(files) // 8)]:
        samples = audio.read(path, duration=10)
        ours = features(torch.from_numpy(samples)[None])[0].numpy()
        assert_close(ours, kaldi(samples), str(path))


@pytest.mark.parametrize("name", synthetic())
def test_folding_is_exact(name: str) -> None:
    samples = synthetic()[name][: SAMPLE_RATE // 2]
    ours = LogMel().double()(torch.from_numpy(samples.astype(np.float64))[None])[0].numpy()
    np.testing.assert_allclose(ours, by_the_book(samples), atol=1e-9, rtol=0)


@settings(deadline=None, max_examples=30)
@given(data=st.data(), batch=st.integers(1, 3), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_steps_equal_the_whole_to_the_bit(data: st.DataObject, batch: int, dtype: torch.dtype) -> None:
    cuts = data.draw(st.lists(st.integers(0, 40), min_size=1, max_size=12))
    features = LogMel().to(dtype)
    generator = torch.Generator().manual_seed(sum(cuts))
    x = 0.1 * torch.randn(batch, HOP * sum(cuts), dtype=dtype, generator=generator)
    memory, parts, position = features.init_state(batch), [], 0
    for frames in cuts:
        y, memory = features.step(x[:, position : position + HOP * frames], memory)
        assert y.shape == (batch, frames, 80)
        parts.append(y)
        position += HOP * frames
    assert torch.equal(torch.cat(parts, 1), features(x))


def test_streams_in_a_batch_do_not_touch_each_other() -> None:
    features = LogMel().double()
    x = torch.randn(5, HOP * 30, dtype=torch.float64)
    alone = [features(x[i : i + 1]) for i in range(5)]
    assert torch.equal(features(x), torch.cat(alone))
    # Streams of different ages, stacked.
    ages = [features.step(x[i : i + 1, : HOP * i], features.init_state(1))[1] for i in range(5)]
    later = torch.cat([x[i : i + 1, HOP * i : HOP * (i + 20)] for i in range(5)])
    y, _ = features.step(later, state.stack(ages))
    for i in range(5):
        assert torch.equal(y[i], alone[i][0, i : i + 20])


def test_long_input_is_computed_in_blocks_that_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    features, x = LogMel(), torch.randn(2, HOP * 700)
    whole = features(x)
    for size in (2, 9, 100_000):
        monkeypatch.setattr("asr.features.CPU_BLOCK", size)
        assert torch.equal(features(x), whole)


def test_a_frame_ends_with_its_hop() -> None:
    """Nothing after a frame's hop moves it, and it sees all of its hop."""
    features = LogMel().double()
    x = torch.randn(1, HOP * 10, dtype=torch.float64)
    later = x.clone()
    later[:, HOP * 5 :] += 1
    before, after = features(x), features(later)
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.equal(before[:, 5], after[:, 5])


def test_shapes_at_the_edges() -> None:
    features = LogMel()
    assert features(torch.zeros(2, 0)).shape == (2, 0, 80)
    assert features(torch.zeros(2, HOP - 1)).shape == (2, 0, 80)
    assert features(torch.zeros(2, 2 * HOP + 1)).shape == (2, 2, 80)
    with pytest.raises(ValueError, match="multiple of 160"):
        features.step(torch.zeros(1, 161), features.init_state(1))


def test_silence_is_the_energy_floor() -> None:
    y = LogMel().double()(torch.zeros(1, HOP * 3))
    torch.testing.assert_close(y, torch.full_like(y, -23 * float(np.log(2))), atol=1e-12, rtol=0)


def test_state_is_not_touched_and_holds_no_view() -> None:
    features = LogMel()
    memory = features.init_state(1)
    x = torch.randn(1, HOP * 100)
    _, after = features.step(x, memory)
    assert memory.left.abs().sum() == 0
    assert after.left.shape == (1, LEFT)
    assert after.left.untyped_storage().nbytes() == 4 * LEFT
    assert torch.equal(after.left, x[:, -LEFT:])


def test_precision_does_not_wear_off() -> None:
    x = torch.randn(1, HOP * 5)
    exact = LogMel().double()(x)
    assert torch.equal(LogMel().bfloat16().float().double()(x), exact)
    assert LogMel().bfloat16()(x).dtype == torch.bfloat16
    assert LogMel().bfloat16().init_state(1).left.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(LogMel()(x), exact.float())
    with torch.device("meta"):
        hollow = LogMel()
    assert torch.equal(hollow.to_empty(device="cpu").double()(x), exact)


def test_nothing_is_stored_with_the_model() -> None:
    assert not LogMel().state_dict()
    assert not list(LogMel().parameters())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (FeaturesConfig(bins=0), "features.bins is 0"),
        (FeaturesConfig(bins=200), "use fewer bins"),
        (FeaturesConfig(low_hz=9000), "low_hz 9000"),
        (FeaturesConfig(high_hz=9000), "high_hz 9000"),
        (FeaturesConfig(low_hz=-1), "low_hz -1"),
    ],
)
def test_impossible_filterbanks_are_refused(config: FeaturesConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LogMel(config)


def test_normalization_stands_in_the_weights() -> None:
    """A corpus' mean and scale, as converted models have them, apply after the logarithm and survive a copy."""
    x = torch.randn(2, 8000, generator=torch.Generator().manual_seed(1))
    model = LogMel(FeaturesConfig(normalize=True))
    assert torch.equal(model(x), LogMel()(x))
    mean, scale = torch.randn(80), torch.rand(80)
    model.load_state_dict({"mean": mean, "scale": scale})
    assert torch.equal(model(x), (LogMel()(x) - mean) * scale)
    assert not LogMel().state_dict()
