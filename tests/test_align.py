"""Alignment of recordings of the embedded corpus with their texts, through files and the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

import asr
from asr import align as module
from asr import batch
from asr.align import align, align_files, spell, to_ctm, to_textgrid
from asr.audio import SAMPLE_RATE, read
from asr.errors import AudioError, ConfigError, DataError
from asr.model import Model
from asr.search import viterbi
from asr.tokenizer import Tokenizer
from asr.transcript import Transcript, Word
from tests.search.lattices import tokenizer


def test_spelling() -> None:
    model = Tokenizer.train(["THE LAZY DOG'S HOUSE"] * 5, kind="bpe", vocabulary=300)
    spelt = spell("The lazy - dog's ('House')!", model)
    assert spelt.words == ("The", "lazy", "dog's", "('House')!")
    assert model.decode(spelt.tokens) == "THE LAZY DOG'S 'HOUSE'"
    starts = [model.piece(t).startswith("▁") for t in spelt.tokens]
    assert list(spelt.word) == (np.cumsum(starts) - 1).tolist()
    with pytest.raises(DataError, match="no words to align"):
        spell(" -- ", model)
    with pytest.raises(DataError, match="cannot write 'c'"):
        spell("abc", tokenizer("ab▁"))


@pytest.fixture(scope="module")
def model() -> Model:
    return asr.load("data/models/mini")


@pytest.fixture(scope="module")
def cuts(mini: Path) -> list[tuple[np.ndarray, str]]:
    import gzip

    with gzip.open(mini / "dev.jsonl.gz", "rt") as f:
        found = [json.loads(line) for line in f][:6]
    source = [cut["recording"]["sources"][0]["source"] for cut in found]
    return [
        (read(mini / path), cut["supervisions"][0]["text"]) for path, cut in zip(source, found, strict=True)
    ]


def test_recordings(
    model: Model, cuts: list[tuple[np.ndarray, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Together and alone; joined to a long one in windows, each word is where it was, but for the chunks."""
    together = [result for _, result in align_files(model, cuts)]
    for (samples, text), result in zip(cuts, together, strict=True):
        assert isinstance(result, Transcript) and result.text == text
        assert result.duration == len(samples) / SAMPLE_RATE
        times = [time for word in result.words for time in (word.start, word.end)]
        assert times == sorted(times) and times[-1] <= result.duration
        alone = align(model, samples, text.lower())
        assert [(w.start, w.end) for w in alone.words] == [(w.start, w.end) for w in result.words]
        assert alone.text == text.lower()
    monkeypatch.setattr(
        module, "sounding", lambda decibels: None
    )  # the peaks alone, whose places windows decide
    together = [result for _, result in align_files(model, cuts)]
    monkeypatch.setattr(module, "WHOLE", 1.0)
    monkeypatch.setattr(viterbi, "WINDOW", 200)
    monkeypatch.setattr(viterbi, "MARGIN", 100)
    joined = align(model, np.concatenate([s for s, _ in cuts]), " ".join(text for _, text in cuts))
    offsets = np.cumsum([0, *(len(s) / SAMPLE_RATE for s, _ in cuts)])
    expected = [
        offset + w.start
        for offset, result in zip(offsets, together, strict=False)
        if isinstance(result, Transcript)
        for w in result.words
    ]
    apart = np.abs(np.array([w.start for w in joined.words]) - expected)
    assert np.median(apart) <= 0.08 and joined.text == " ".join(text for _, text in cuts)


def test_what_cannot_be_aligned(model: Model, cuts: list[tuple[np.ndarray, str]], tmp_path: Path) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_text("no audio")
    results = [r for _, r in align_files(model, [(bad, "ACE"), (cuts[0][0][:1600], "ACE " * 40), cuts[0]])]
    assert isinstance(results[0], AudioError) and isinstance(results[1], DataError)
    assert "does not fit" in str(results[1]) and isinstance(results[2], Transcript)
    with pytest.raises(DataError, match="does not fit"):
        align(model, cuts[0][0][:1600], "ACE " * 40)
    del (headless := asr.load("data/models/mini")).heads["ctc"]
    with pytest.raises(ConfigError, match="CTC head"):
        align(headless, cuts[0][0], "ACE")


def test_the_command_writes_files(
    model: Model, cuts: list[tuple[np.ndarray, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i, (samples, text) in enumerate(cuts[:2]):
        soundfile.write(tmp_path / f"{i}.wav", samples, SAMPLE_RATE)
        (tmp_path / f"{i}.txt").write_text(text)
    out = tmp_path / "out"
    assert (
        batch.align(model, str(tmp_path), tmp_path, formats="ctm,json,textgrid", out=out, batch_seconds=60)
        == 0
    )
    assert {path.name for path in out.iterdir()} == {
        f"{i}.{kind}" for i in (0, 1) for kind in ("ctm", "json", "TextGrid")
    }
    assert Transcript.from_json((out / "0.json").read_text()).text == cuts[0][1]
    (tmp_path / "1.txt").write_text("ACE " * 500)
    assert batch.align(model, str(tmp_path), tmp_path, formats="ctm", out=out, batch_seconds=60) == 1
    assert "1.wav: the text does not fit" in capsys.readouterr().err
    with pytest.raises(DataError, match="a folder of texts"):
        batch.align(model, str(tmp_path), tmp_path / "0.txt", formats="ctm", out=out, batch_seconds=60)
    with pytest.raises(ConfigError, match="none of textgrid"):
        batch.align(model, str(tmp_path), tmp_path, formats="srt", out=out, batch_seconds=60)


def test_formats() -> None:
    said = Transcript((Word('a"b', 0.5, 1.0, 0.25), Word("c", 1.0, 1.0, 0.5), Word("d", 1.25, 2.0, 1.0)), 2.5)
    assert to_ctm(said, "talk").splitlines()[0] == 'talk 1 0.500 0.500 a"b 0.2500'
    grid = to_textgrid(said).splitlines()
    assert grid[:3] == ['File type = "ooTextFile"', 'Object class = "TextGrid"', ""]
    intervals = grid[12:]
    assert int(grid[11]) == len(intervals) // 3 == 5
    assert intervals[:6] == ["0.0", "0.5", '""', "0.5", "1.0", '"a""b"']
    ends, starts = intervals[1::3], intervals[0::3]
    assert ends[:-1] == starts[1:] and ends[-1] == "2.5"
