"""Small corpora of tones, made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet

from asr.dataset.corpus import Utterance, to_cuts


@pytest.fixture
def tone(tmp_path: Path) -> Callable[..., Path]:
    """Writes `seconds` of a tone: tone("a.flac", 1.5)."""

    def write(name: str, seconds: float, *, rate: int = 16_000, channels: int = 1) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        wave = 0.3 * np.sin(np.arange(round(seconds * rate)) * (0.1 + 0.01 * seconds))
        soundfile.write(path, np.tile(wave[:, None], (1, channels)) if channels > 1 else wave, rate)
        return path

    return write


@pytest.fixture
def corpus(tone: Callable[..., Path], tmp_path: Path) -> Callable[[list[float]], Path]:
    """Writes a manifest of utterances with the given durations: ids u000, u001 ... by two speakers."""

    def write(durations: list[float], *, name: str = "cuts.jsonl.gz") -> Path:
        utterances = [
            Utterance(
                id=f"u{i:03}",
                path=tone(f"audio/{i:03}.flac", seconds),
                text=f"Word {i}",
                speaker="ab"[i % 2],
            )
            for i, seconds in enumerate(durations)
        ]
        to_cuts(utterances).to_file(tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def edit(corpus: Callable[..., Path]) -> Callable[..., Path]:
    """A manifest of five utterances of 1 s, after `change(cut)` was done to the third."""

    def write(change: Callable[..., object]) -> Path:
        path = corpus([1.0] * 5)
        cuts = list(CutSet.from_file(path))
        change(cuts[2])
        CutSet(cuts).to_file(path)
        return path

    return write
