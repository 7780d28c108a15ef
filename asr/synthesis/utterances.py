"""One utterance: who says it and how fast, drawn from its number; levels and silences as recordings have them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import soundfile

from asr.audio import SAMPLE_RATE, Samples
from asr.errors import ConfigError, DataError
from asr.synthesis.voices import Voice, VoiceConfig

__all__ = ["Made", "Manner", "Task", "as_recorded", "make", "pair", "start", "trimmed"]

QUIET = 0.005  # of full scale, below which speech has not begun
MARGIN = SAMPLE_RATE // 20  # the "f" of "four" begins far below that
SILENCE_SECONDS = (0.1, 0.5)
SHORTEST = 1.5  # seconds that an utterance is filled up to
PEAKS = (0.15, 0.85)
NOISE = (1e-4, 1e-3)
SWALLOWED = 0.02  # seconds a character, below which the voice has left words out


@dataclass(frozen=True)
class Manner:
    """How texts are said: by which voice, between which two speeds, for how many seconds at most; drawn from `seed`."""

    voice: VoiceConfig
    speeds: tuple[float, float] = (0.85, 1.2)
    longest: float = 20.0
    seed: int = 1

    def __post_init__(self) -> None:
        slowest, fastest = self.speeds
        if not 0.1 <= slowest <= fastest <= 10:
            raise ConfigError(f"speeds: {slowest:g} to {fastest:g} must rise, between 0.1 and 10")


@dataclass(frozen=True)
class Task:
    """An utterance to be made. text: of the transcript; spoken: what the voice gets; speaker: None is drawn; path:
    below the folder `out`; where: the line that it comes from.
    """

    number: int
    text: str
    spoken: str
    speaker: str | None
    where: str
    path: str
    out: Path


@dataclass(frozen=True)
class Made:
    """duration: in seconds; wrong: what is, where nothing was made."""

    task: Task
    speaker: str = ""
    duration: float = 0.0
    wrong: str = ""


_of_process: tuple[Manner, Voice] | None = None


def start(manner: Manner) -> None:
    """Make a process ready: loading a voice takes longer than a sentence."""
    global _of_process
    os.environ["OMP_NUM_THREADS"] = "1"
    _of_process = manner, manner.voice.load()


def make(task: Task) -> Made:
    """Say a text and write it, whole or not at all, in a process that is ready."""
    assert _of_process is not None
    manner, voice = _of_process
    random = Random(f"{manner.seed}/{task.number}")
    speaker = random.choice(
        voice.speakers or ("",)
    )  # drawn even where it is given, so that the rest stays the same
    speaker, speed = task.speaker or speaker, random.uniform(*manner.speeds)
    try:
        speech = trimmed(voice.say(task.spoken, speaker=speaker, speed=speed))
        samples = as_recorded(speech, random)
        duration = len(samples) / SAMPLE_RATE
        if len(speech) / SAMPLE_RATE < SWALLOWED * len(task.spoken):
            raise DataError(f"the voice says it in {len(speech) / SAMPLE_RATE:.2f} s: words are missing")
        if duration > manner.longest:
            raise DataError(f"it takes {duration:.1f} s, more than {manner.longest:g}")
    except DataError as error:
        return Made(task, wrong=str(error))
    path = task.out / task.path
    partial = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(partial, samples, SAMPLE_RATE, format="FLAC")
        partial.replace(path)
    except (OSError, soundfile.SoundFileError) as error:
        raise DataError(
            f"{path} cannot be written ({error}); make room and run the same command again"
        ) from error
    return Made(task, speaker, duration)


def pair(text: str) -> tuple[float, float]:
    """`0.9,1.1` -> (0.9, 1.1). Raises ConfigError."""
    try:
        first, last = map(float, text.split(","))
    except ValueError:
        raise ConfigError(f"--speeds {text}: give two factors, as in 0.9,1.1") from None
    return first, last


def trimmed(speech: Samples) -> Samples:
    """Without the silence at both ends."""
    loud = np.flatnonzero(np.abs(speech) > QUIET)
    return speech[max(0, loud[0] - MARGIN) : loud[-1] + MARGIN] if len(loud) else speech[:0]


def as_recorded(speech: Samples, random: Random) -> Samples:
    """At a drawn level, with room-like silence around and faint noise throughout.

    Digital silence never occurs in recordings; a model that saw it in training would take it for a feature.
    """
    before, after = (int(random.uniform(*SILENCE_SECONDS) * SAMPLE_RATE) for _ in range(2))
    after += max(0, int(SHORTEST * SAMPLE_RATE) + 1 - before - len(speech) - after)
    level = random.uniform(*PEAKS) / max(float(np.abs(speech).max(initial=0.0)), 1e-3)
    samples = np.concatenate([np.zeros(before), speech * level, np.zeros(after)])
    noise = np.random.default_rng(random.getrandbits(32)).standard_normal(len(samples))
    return (samples + random.uniform(*NOISE) * noise).astype(np.float32).clip(-1, 1)
