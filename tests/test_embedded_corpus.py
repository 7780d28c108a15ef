"""data/mini is whole, readable, in normal form, and its splits share no speaker."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet
from lhotse.cut import MonoCut

MINI = Path(__file__).resolve().parents[1] / "data" / "mini"
SPLITS = ("train", "dev", "test", "long")
MEGABYTES = 6


def cuts(split: str) -> list[MonoCut]:
    return list(CutSet.from_file(MINI / f"{split}.jsonl.gz"))


def speakers(split: str) -> set[str]:
    return {supervision.speaker for cut in cuts(split) for supervision in cut.supervisions}


def test_every_file_has_its_checksum_and_every_checksum_its_file():
    lines = (MINI / "SHA256SUMS").read_text().splitlines()
    sums = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    files = {path for path in MINI.rglob("*") if path.is_file() and path.name != "SHA256SUMS"}
    assert {path.relative_to(MINI).as_posix() for path in files} == set(sums)
    for path in files:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == sums[path.relative_to(MINI).as_posix()], path


def test_is_small():
    assert sum(path.stat().st_size for path in MINI.rglob("*") if path.is_file()) < MEGABYTES * 1e6


@pytest.mark.parametrize("split", SPLITS)
def test_audio_is_what_the_manifest_says(split):
    for cut in cuts(split):
        (source,) = cut.recording.sources
        assert not Path(source.source).is_absolute()
        samples, rate = soundfile.read(MINI / source.source, dtype="float32")
        assert (rate, samples.shape) == (16_000, (cut.recording.num_samples,)), cut.id
        assert cut.duration == cut.recording.duration == cut.recording.num_samples / rate
        # Neither silent nor a wall of clipped samples.
        assert np.abs(samples).max() > 0.1, cut.id
        assert np.mean(np.abs(samples) > 0.99) < 0.01, cut.id


@pytest.mark.parametrize("split", SPLITS)
def test_texts_are_in_normal_form_and_span_the_audio(split):
    ids = [cut.id for cut in cuts(split)]
    assert len(ids) == len(set(ids))
    for cut in cuts(split):
        (supervision,) = cut.supervisions
        assert re.fullmatch(r"[A-Z']+( [A-Z']+)*", supervision.text), cut.id
        assert (supervision.start, supervision.duration) == (0.0, cut.duration)
        # 3 to 25 characters a second: text and audio belong together.
        assert 3 < len(supervision.text) / cut.duration < 25 or cut.duration < 2, cut.id


def test_splits_share_no_speaker():
    assert not speakers("train") & speakers("dev")
    assert not speakers("train") & speakers("test")
    assert not speakers("dev") & speakers("test")


def test_training_covers_the_words_of_dev():
    known = {word for cut in cuts("train") for word in cut.supervisions[0].text.split()}
    assert {word for cut in cuts("dev") for word in cut.supervisions[0].text.split()} <= known
    assert len(known) == 26


def test_ten_are_the_first_of_test_and_real():
    ten = (MINI / "ten.txt").read_text().split()
    first = cuts("test")[:10]
    assert ten == [cut.id for cut in first]
    assert all(cut.supervisions[0].speaker.startswith("real-") for cut in first)


def test_long_is_longer_than_a_block_of_reading():
    (cut,) = cuts("long")
    assert cut.duration > 30
    assert cut.supervisions[0].text.startswith("AND MISTER JOHN DASHWOOD")
