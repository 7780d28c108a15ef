"""Recordings in the layout of yesno (OpenSLR 1), of people who say "yes" and "no" in AN4: sixty of eight words, 8 kHz.

    asr prepare an4 CORPUS data/an4
    python tools/make_yesno_like.py data/an4 .work/yesno
    asr prepare yesno .work/yesno data/yesno

Where yesno has one man, this has the people of AN4 whose "yes" or "no" is an utterance of its own, some thirty. They
are the same ones in all parts, as the man is; each word is a little faster or slower, louder or softer than any other.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import soundfile
import soxr

from asr.dataset.cuts import text_of
from asr.dataset.manifest import Manifest

RATE = 8000
RECORDINGS, WORDS = 60, 8
GAP_SECONDS = (0.1, 0.4)
SPEEDS = (0.85, 1.15)
GAINS = (0.5, 1.0)
QUIET = 0.05  # of the loudest 10 ms: what is below it at both ends is cut off

Samples = np.ndarray


def spoken(data: Path) -> dict[str, list[Samples]]:
    """The recordings of each word."""
    manifest = Manifest([data / f"{part}.jsonl.gz" for part in ("train", "dev", "test")])
    found: dict[str, list[Samples]] = {"YES": [], "NO": []}
    for i in range(len(manifest)):
        if text_of(manifest[i]) in found:
            cut, samples = manifest.load(i)
            found[text_of(cut)].append(trimmed(soxr.resample(samples, cut.sampling_rate, RATE)))
    return found


def trimmed(samples: Samples) -> Samples:
    size = RATE // 100
    loud = np.abs(samples[: len(samples) // size * size]).reshape(-1, size).max(axis=1)
    inside = np.flatnonzero(loud > QUIET * loud.max())
    return samples[inside[0] * size : (inside[-1] + 1) * size]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="what `asr prepare an4` wrote")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    random = np.random.default_rng(1)
    sounds = spoken(options.data)
    folder = options.out / "waves_yesno"
    folder.mkdir(parents=True, exist_ok=True)
    first = 0b00001111  # the corpus' first file is 0_0_0_0_1_1_1_1.wav
    others = random.choice(np.arange(first + 1, 1 << WORDS), RECORDINGS - 1, replace=False)
    for code in [first, *sorted(others.tolist())]:
        said = f"{code:0{WORDS}b}"
        pieces: list[Samples] = []
        for digit in said:
            of_word = sounds["YES" if digit == "1" else "NO"]
            silence = np.zeros(round(random.uniform(*GAP_SECONDS) * RATE), dtype=np.float32)
            word = soxr.resample(of_word[random.integers(len(of_word))], RATE * random.uniform(*SPEEDS), RATE)
            pieces += [silence, random.uniform(*GAINS) * word / np.abs(word).max()]
        soundfile.write(folder / f"{'_'.join(said)}.wav", np.concatenate(pieces), RATE)


if __name__ == "__main__":
    main()
