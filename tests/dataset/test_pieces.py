"""Utterances of the embedded corpus, cut between their words and joined anew."""

from __future__ import annotations

import gzip
import json
import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import asr
from asr import cli
from asr.audio import SAMPLE_RATE
from asr.dataset.cuts import text_of
from asr.dataset.manifest import Manifest
from asr.dataset.pieces import places, write_pieces
from asr.dataset.sampler import Joining, Sampler
from asr.errors import ConfigError, DataError
from asr.model import Model
from asr.transcript import Word


@pytest.fixture(scope="module")
def model() -> Model:
    return asr.load("data/models/mini")


def test_places() -> None:
    """Three words with a long pause, and with none."""
    samples = np.full(2 * SAMPLE_RATE, 0.3, dtype=np.float32)
    samples[int(0.6 * SAMPLE_RATE) : int(0.8 * SAMPLE_RATE)] = 0.001
    words = [
        Word("one", 0.1, 0.58, 1.0), Word("two", 0.82, 1.2, 1.0), Word("three", 1.2, 1.9, 1.0)
    ]  # fmt: skip
    ((number, place),) = places(samples, words, quiet=15.0, shortest=0.3)
    assert number == 1 and 0.6 < place < 0.8
    assert not places(samples, words, quiet=60.0, shortest=0.3)
    assert not places(samples, words, quiet=15.0, shortest=0.9)
    assert places(samples[:0], words[:1], quiet=15.0, shortest=0.3) == []


def test_pieces_make_up_their_utterances(model: Model, mini: Path, tmp_path: Path) -> None:
    out = tmp_path / "pieces.jsonl.gz"
    write_pieces(mini / "dev.jsonl.gz", model, out)
    whole, pieces = Manifest([mini / "dev.jsonl.gz"]), Manifest([out])
    assert len(pieces) > 1.5 * len(whole)
    samples: dict[str, list[np.ndarray]] = {}
    texts: dict[str, list[str]] = {}
    for i in range(len(pieces)):
        cut, heard = pieces.load(i)
        name = cut.id.rpartition("-")[0]
        samples.setdefault(name, []).append(heard)
        texts.setdefault(name, []).append(text_of(cut))
        assert cut.duration >= 0.3 - 1e-3
    for i in range(len(whole)):
        cut, heard = whole.load(i)
        assert " ".join(texts[cut.id]) == text_of(cut)
        together = np.concatenate(samples[cut.id])
        assert abs(len(together) - len(heard)) <= 2 * len(texts[cut.id])  # each is cut at a whole sample
    joined = Sampler(
        pieces.durations, max_duration=20.0, joining=Joining(probability=0.9, max_seconds=5.0, pause=0.0)
    )
    assert len(joined.plan(0).starts) < len(pieces) / 2


def test_rare_words_come_more_often(model: Model, mini: Path, tmp_path: Path) -> None:
    """With `least`, a word has as many pieces as that, as far as the other words in them let it."""
    outs = tmp_path / "plain.jsonl.gz", tmp_path / "more.jsonl.gz"
    write_pieces(mini / "dev.jsonl.gz", model, outs[0])
    write_pieces(mini / "dev.jsonl.gz", model, outs[1], least=6)
    plain, more = (Manifest([out]) for out in outs)
    words = [[word for i in range(len(some)) for word in text_of(some[i]).split()] for some in (plain, more)]
    before, after = (Counter(one) for one in words)
    assert min(before.values()) < 4 and min(after.values()) >= 5
    assert all(after[word] >= count for word, count in before.items())
    common = [word for word, count in before.items() if count >= 6]
    assert common and len({more[i].id for i in range(len(more))}) == len(more)


def test_what_does_not_fit_is_left_out(
    model: Model, mini: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with gzip.open(mini / "dev.jsonl.gz", "rt") as file:
        cuts = [json.loads(line) for line in file][:3]
    for cut in cuts:
        source = cut["recording"]["sources"][0]
        source["source"] = str(mini / source["source"])
    cuts[0]["supervisions"][0]["text"] = " ".join(["SPADES"] * 200)
    cuts[1]["recording"]["sources"][0]["source"] = str(tmp_path / "gone.opus")

    def written(some: list[dict]) -> Path:
        path = tmp_path / "some.jsonl"
        path.write_text("".join(json.dumps(cut) + "\n" for cut in some))
        return path

    out = tmp_path / "pieces.jsonl.gz"
    with caplog.at_level(logging.WARNING):
        write_pieces(written(cuts), model, out)
    assert f"left out {cuts[0]['id']}: the text does not fit" in caplog.text
    assert "left out: " in caplog.text and cuts[1]["id"] in caplog.text
    left = Manifest([out])
    assert {left[i].id.rpartition("-")[0] for i in range(len(left))} == {cuts[2]["id"]}
    before = out.read_bytes()
    with pytest.raises(DataError, match="no utterance fits its text"):
        write_pieces(written(cuts[:2]), model, out)
    assert out.read_bytes() == before


def test_what_cannot_be_done(model: Model, mini: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ends in .jsonl.gz"):
        write_pieces(mini / "dev.jsonl.gz", model, tmp_path / "pieces.jsonl")
    del (headless := asr.load("data/models/mini")).heads["ctc"]
    with pytest.raises(ConfigError, match="needs a CTC head"):
        write_pieces(mini / "dev.jsonl.gz", headless, tmp_path / "pieces.jsonl.gz")
    assert not (tmp_path / "pieces.jsonl.gz").exists()


def test_the_command(mini: Path, tmp_path: Path) -> None:
    out = tmp_path / "pieces.jsonl.gz"
    done = CliRunner().invoke(
        cli.app, ["pieces", str(mini / "dev.jsonl.gz"), "--model", "data/models/mini", "--out", str(out)]
    )
    assert done.exit_code == 0, done.output
    assert str(out) in done.output.replace("\n", "") and "10 speakers" in done.output
