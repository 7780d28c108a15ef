from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr import transcribe as module
from asr.audio import SAMPLE_RATE
from asr.errors import AudioError, ConfigError
from asr.model import Model
from asr.transcribe import transcribe_files
from asr.transcript import Transcript
from models import small_model
from test_streaming_equals_offline import speech


@pytest.fixture(scope="module")
def model() -> Model:
    return small_model()


def test_files_batched_say_what_each_says_alone(model: Model) -> None:
    recordings = [speech(i, seconds) for i, seconds in enumerate((1.0, 4.0, 0.4, 2.5, 2.5))]
    alone = [model.transcribe(samples) for samples in recordings]
    together = list(transcribe_files(model, recordings, batch_seconds=9.0))
    for (_, transcript), expected in zip(together, alone, strict=True):
        assert isinstance(transcript, Transcript) and transcript.duration == expected.duration
        assert [(w.text, w.start, w.end) for w in transcript.words] == [
            (w.text, w.start, w.end) for w in expected.words
        ]
        assert [w.confidence for w in transcript.words] == pytest.approx(
            [w.confidence for w in expected.words], abs=1e-3
        )
    assert all(found is samples for (found, _), samples in zip(together, recordings, strict=True))
    assert all(transcript.words for transcript in alone)


def test_an_unreadable_file_does_not_harm_the_others(model: Model, tmp_path: Path) -> None:
    good = tmp_path / "good.wav"
    soundfile.write(good, speech(1, 1.0), SAMPLE_RATE)
    bad = tmp_path / "bad.wav"
    bad.write_text("these are words, but not audio")
    results = dict(transcribe_files(model, [good, bad, tmp_path / "absent.flac"]))
    assert isinstance(results[good], Transcript)
    assert isinstance(results[bad], AudioError) and "bad.wav" in str(results[bad])
    assert isinstance(results[tmp_path / "absent.flac"], AudioError)
    with pytest.raises(AudioError, match=r"bad\.wav"):
        model.transcribe(bad)


@pytest.mark.parametrize(
    "samples", [np.zeros(0, np.float32), np.zeros(1, np.float32), np.zeros(159, np.float32)]
)
@pytest.mark.parametrize("latency", [None, 290])
def test_next_to_nothing(model: Model, samples: np.ndarray, latency: int | None) -> None:
    transcript = model.transcribe(samples, latency_ms=latency)
    assert transcript.duration == len(samples) / SAMPLE_RATE
    assert all(word.end <= transcript.duration for word in transcript.words)


def test_samples_of_the_wrong_kind(model: Model) -> None:
    with pytest.raises(AudioError, match="one channel of floats"):
        model.transcribe(np.zeros((2, 100), np.float32))
    with pytest.raises(AudioError, match="one channel of floats"):
        model.transcribe(np.zeros(100, np.int16))


def test_a_latency_or_head_that_the_model_lacks(model: Model) -> None:
    with pytest.raises(ConfigError, match=r"latency_ms: 100 is below.*290"):
        model.transcribe(speech(0, 1.0), latency_ms=100)
    with pytest.raises(ConfigError, match=r"head: 'rnnt' is not one of this model's: transducer, ctc"):
        model.transcribe(speech(0, 1.0), head="rnnt")


def test_long_audio_is_streamed_in_bounded_memory(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = speech(3, 30.0)
    done: list[float] = []

    def peak(minutes: float) -> tuple[Transcript, int]:
        path = tmp_path / f"{minutes}.wav"
        soundfile.write(path, np.tile(once, round(2 * minutes)), SAMPLE_RATE, subtype="PCM_16")
        tracemalloc.start()
        ((_, transcript),) = transcribe_files(model, [path], progress=done.append)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert isinstance(transcript, Transcript)
        return transcript, size

    short, memory = peak(2)
    assert sum(done) == pytest.approx(120) and short.duration == pytest.approx(120)
    assert short.words[-1].end > 115
    assert peak(6)[1] < memory + 1_000_000  # what its words take, and no audio: four minutes are 15 MB
    # The steps that a file goes in say what one step of everything says.
    monkeypatch.setattr(module, "STEP", 1.0)
    again, _ = peak(2)
    assert [(w.text, w.start, w.end) for w in again.words] == [(w.text, w.start, w.end) for w in short.words]
