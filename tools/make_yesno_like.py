"""Recordings in the layout of yesno (OpenSLR 1), of people who say "yes" and "no" in AN4: sixty of eight words, 8 kHz.

    asr prepare an4 CORPUS data/an4
    python tools/make_yesno_like.py data/an4 .work/yesno
    asr prepare yesno .work/yesno data/yesno

Where yesno has one man, this has the 30 or so people of AN4 whose "yes" or "no" is an utterance of its own. Those of
every second recording, which are the test set, are not those of the others.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import soundfile
import soxr

from asr.dataset.corpus import speaker_of
from asr.dataset.cuts import text_of
from asr.dataset.manifest import Manifest

RATE = 8000
RECORDINGS, WORDS = 60, 8
GAP_SECONDS = (0.1, 0.4)
HELD_OUT = 0.3  # of the speakers, for the test set

Sounds = dict[str, list[np.ndarray]]


def spoken(data: Path, random: np.random.Generator) -> tuple[Sounds, Sounds]:
    """By word, its recordings by people to train on, and by others."""
    manifest = Manifest([data / f"{part}.jsonl.gz" for part in ("train", "dev", "test")])
    found = [i for i in range(len(manifest)) if text_of(manifest[i]) in ("YES", "NO")]
    speakers = sorted({speaker_of(manifest[i]) for i in found})
    held_out = set(random.permutation(speakers)[: round(HELD_OUT * len(speakers))].tolist())
    parts: tuple[Sounds, Sounds] = {"YES": [], "NO": []}, {"YES": [], "NO": []}
    for i in found:
        cut, samples = manifest.load(i)
        sounds = parts[speaker_of(cut) in held_out][text_of(cut)]
        sounds.append(soxr.resample(samples, cut.sampling_rate, RATE))
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="what `asr prepare an4` wrote")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    random = np.random.default_rng(1)
    parts = spoken(options.data, random)
    folder = options.out / "waves_yesno"
    folder.mkdir(parents=True, exist_ok=True)
    first = 0b00001111  # the corpus' first file is 0_0_0_0_1_1_1_1.wav
    others = random.choice(np.arange(first + 1, 1 << WORDS), RECORDINGS - 1, replace=False)
    for number, code in enumerate([first, *sorted(others.tolist())]):
        said = f"{code:0{WORDS}b}"
        pieces: list[np.ndarray] = []
        for digit in said:
            sounds = parts[number % 2]["YES" if digit == "1" else "NO"]
            silence = np.zeros(round(random.uniform(*GAP_SECONDS) * RATE), dtype=np.float32)
            pieces += [silence, sounds[random.integers(len(sounds))]]
        soundfile.write(folder / f"{'_'.join(said)}.wav", np.concatenate(pieces), RATE)


if __name__ == "__main__":
    main()
