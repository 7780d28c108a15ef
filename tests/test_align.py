"""Forced alignment against every path, counted one by one; windows against the whole; recordings of the embedded corpus."""

from __future__ import annotations

import importlib.util
import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import asr
from asr import align as module
from asr import batch
from asr.align import Span, align, align_files, spell, to_ctm, to_textgrid, viterbi
from asr.audio import SAMPLE_RATE, read
from asr.errors import AudioError, ConfigError, DataError
from asr.heads import BLANK
from asr.model import Model
from asr.tokenizer import Tokenizer
from asr.transcript import Transcript, Word
from tests.search.lattices import tokenizer


def random(frames: int, seed: int, streams: int = 1, vocabulary: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(streams, frames, vocabulary, generator=generator)).log_softmax(-1)


def merged(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(t for i, t in enumerate(path) if t != BLANK and (i == 0 or path[i - 1] != t))


def score(x: torch.Tensor, spans: list[Span], tokens: list[int]) -> float:
    path = [BLANK] * len(x)
    for span, token in zip(spans, tokens, strict=True):
        path[span.begin : span.end] = [token] * (span.end - span.begin)
    assert merged(tuple(path)) == tuple(tokens)
    return float(x[torch.arange(len(x)), torch.tensor(path)].sum())


@given(seed=st.integers(0, 1000), tokens=st.lists(st.integers(1, 3), min_size=1, max_size=3))
@settings(max_examples=20)
def test_the_best_of_all_paths(seed: int, tokens: list[int]) -> None:
    x = random(5, seed)
    (spans,) = viterbi(x, torch.tensor([5]), [tokens])
    paths = [path for path in product(range(4), repeat=5) if merged(path) == tuple(tokens)]
    if not paths:
        assert spans is None
        return
    best = max(float(x[0, torch.arange(5), torch.tensor(path)].sum()) for path in paths)
    assert spans is not None and score(x[0], spans, tokens) == pytest.approx(best, abs=1e-5)


def test_a_batch_says_what_each_says_alone() -> None:
    x, lens, texts = random(30, 1, 4), torch.tensor([30, 17, 3, 0]), [[1, 2, 2, 3, 1], [3], [1, 1, 2], [1]]
    together = viterbi(x, lens, texts)
    for b, tokens in enumerate(texts):
        assert together[b] == viterbi(x[b : b + 1, : lens[b]], lens[b : b + 1], [tokens])[0]
    assert together[2] is None and together[3] is None  # four frames are needed; one


@pytest.mark.skipif(importlib.util.find_spec("torchaudio") is None, reason="torchaudio is not installed")
def test_torchaudio_finds_the_same() -> None:
    from torchaudio.functional import forced_align

    x, tokens = random(50, 2), [1, 2, 3, 3, 1, 2]
    path = forced_align(x, torch.tensor([tokens], dtype=torch.int32))[0][0].tolist()
    (spans,) = viterbi(x, torch.tensor([50]), [tokens])
    assert spans is not None
    assert score(x[0], spans, tokens) == pytest.approx(
        float(x[0, torch.arange(50), torch.tensor(path)].sum())
    )


def test_windows_find_what_the_whole_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WINDOW", 40)
    monkeypatch.setattr(module, "MARGIN", 20)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, 4, (60,), generator=generator).tolist()
    said = [t for token in tokens for t in (BLANK, BLANK, token, token, BLANK)]
    x = torch.randn(len(said), 4, generator=generator)
    x[torch.arange(len(said)), torch.tensor(said)] += 5
    x = x.log_softmax(-1)
    (whole,) = viterbi(x[None], torch.tensor([len(x)]), [tokens])
    for step in (1, 7, 64, 1000):
        windows = module._Windows(tuple(tokens))
        for begin in range(0, len(x), step):
            windows.push(x[begin : begin + step])
        assert windows.finish() == whole
    windows = module._Windows(tuple(tokens) * 9)
    windows.push(x)
    assert windows.finish() is None  # more than is there


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
    monkeypatch.setattr(module, "WHOLE", 1.0)
    monkeypatch.setattr(module, "WINDOW", 200)
    monkeypatch.setattr(module, "MARGIN", 100)
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
