"""Recordings in the layout of yesno (OpenSLR 1): sixty of eight words, "yes" or "no", said by one voice, 8 kHz.

    python tools/make_yesno_like.py .work/yesno --voice VOICE
    asr prepare yesno .work/yesno data/yesno

VOICE is one that `asr synthesize` takes, such as that which `recipes/english/make_texts.py` fetches. As the man of the
corpus does, it says each word anew, a little faster or slower, louder or softer than any other.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import soundfile
import soxr

from asr.audio import SAMPLE_RATE
from asr.synthesis.voices import VoiceConfig

RATE = 8000
RECORDINGS, WORDS = 60, 8
GAP_SECONDS = (0.1, 0.4)
SPEEDS = (0.85, 1.15)
GAINS = (0.5, 1.0)
QUIET = 0.05  # of the loudest 10 ms: what is below it at both ends is cut off

Samples = np.ndarray


def trimmed(samples: Samples) -> Samples:
    size = RATE // 100
    loud = np.abs(samples[: len(samples) // size * size]).reshape(-1, size).max(axis=1)
    inside = np.flatnonzero(loud > QUIET * loud.max())
    return samples[inside[0] * size : (inside[-1] + 1) * size]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--voice", type=Path, required=True)
    parser.add_argument("--speaker", default="0")
    options = parser.parse_args()
    random = np.random.default_rng(1)
    voice = VoiceConfig(folder=options.voice).load()
    folder = options.out / "waves_yesno"
    folder.mkdir(parents=True, exist_ok=True)
    first = 0b00001111  # the corpus' first file is 0_0_0_0_1_1_1_1.wav
    others = random.choice(np.arange(first + 1, 1 << WORDS), RECORDINGS - 1, replace=False)
    for code in [first, *sorted(others.tolist())]:
        said = f"{code:0{WORDS}b}"
        pieces: list[Samples] = []
        for digit in said:
            text = "Yes." if digit == "1" else "No."
            spoken = voice.say(text, speaker=options.speaker, speed=random.uniform(*SPEEDS))
            word = trimmed(soxr.resample(spoken, SAMPLE_RATE, RATE))
            silence = np.zeros(round(random.uniform(*GAP_SECONDS) * RATE), dtype=np.float32)
            pieces += [silence, random.uniform(*GAINS) * word / np.abs(word).max()]
        soundfile.write(folder / f"{'_'.join(said)}.wav", np.concatenate(pieces), RATE)


if __name__ == "__main__":
    main()
