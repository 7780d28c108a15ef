from __future__ import annotations

import json
from pathlib import Path

import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

from asr.encoders.base import FULL_CONTEXT, Chunk
from asr.errors import DataError
from asr.evaluate import Errors, count_errors, decode, evaluate, stream
from asr.heads.base import Emission
from tests.training.fakes import FakeModel, batch_of, tones


@pytest.mark.parametrize(
    ("reference", "hypothesis", "words", "characters"),
    [
        ("the cat sat", "the cat sat", Errors(0, 0, 0, 3), Errors(0, 0, 0, 11)),
        ("the cat sat", "the bat sat", Errors(1, 0, 0, 3), Errors(1, 0, 0, 11)),
        ("the cat sat", "the sat", Errors(0, 1, 0, 3), Errors(0, 4, 0, 11)),
        ("the cat sat", "the cat sat on", Errors(0, 0, 1, 3), Errors(0, 0, 3, 11)),
        ("a b c d", "x a c e", Errors(1, 1, 1, 4), Errors(3, 0, 0, 7)),
        ("", "noise", Errors(0, 0, 1, 0), Errors(0, 0, 5, 0)),
        ("all gone", "", Errors(0, 2, 0, 2), Errors(0, 8, 0, 8)),
        ("  spaces   do  ", "spaces do", Errors(0, 0, 0, 2), Errors(0, 0, 0, 9)),
        ("naïve 北京", "naive 北京", Errors(1, 0, 0, 2), Errors(1, 0, 0, 8)),
    ],
)
def test_counts(reference: str, hypothesis: str, words: Errors, characters: Errors):
    found = count_errors([reference], [hypothesis])
    assert (found.total, found.length) == (words.total, words.length)
    if "x a" not in hypothesis:  # of several best alignments any will do
        assert found == words
    letters = count_errors([reference], [hypothesis], characters=True)
    assert (letters.total, letters.length) == (characters.total, characters.length)


def test_rates_and_sums():
    total = count_errors(["a b", "c d e f"], ["a", "c x e f g"])
    assert total == Errors(1, 1, 1, 6)
    assert total.total == 3
    assert total.rate == 0.5
    assert Errors(0, 0, 2, 0).rate == 2.0
    assert Errors(1, 2, 3, 4) + Errors(1, 1, 1, 1) == Errors(2, 3, 4, 5)
    with pytest.raises(ValueError, match="zip"):
        count_errors(["a"], [])


def distance(a: list[str], b: list[str]) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


def tokens(found: list[list[Emission]]) -> list[list[tuple[int, int]]]:
    return [[(e.token, e.frame) for e in emissions] for emissions in found]


texts = st.lists(st.sampled_from("abc"), max_size=8).map(" ".join)


@given(texts, texts)
def test_the_total_is_the_edit_distance(a: str, b: str):
    found = count_errors([a], [b])
    assert found.total == distance(a.split(), b.split())
    assert found.insertions - found.deletions == len(b.split()) - len(a.split())


def test_streamed_is_decoded():
    chunk = Chunk(4, 4)
    torch.manual_seed(2)
    model = FakeModel().eval()
    batch = batch_of(["abcd", "da", "b"])
    torch.nn.init.normal_(model.heads["ctc"].output.weight, std=10.0)  # any tokens will do, if they are many
    whole = tokens(decode(model, batch.samples, batch.sample_lens, chunk=chunk))
    assert all(whole)
    after = torch.arange(batch.samples.shape[1]) >= batch.sample_lens[:, None]
    noisy = batch.samples + torch.randn_like(batch.samples) * after  # what lies in the padding is not heard
    assert tokens(stream(model, noisy, batch.sample_lens, chunk=chunk)) == whole
    last = batch.samples[1:2, : batch.sample_lens[1]], batch.sample_lens[1:2]
    assert tokens(stream(model, *last, chunk=chunk)) == whole[1:2]
    assert tokens(decode(model, *last, chunk=FULL_CONTEXT)) == whole[1:2]


def manifest(path: Path, spoken: list[str]) -> Path:
    cuts = []
    for i, text in enumerate(spoken):
        soundfile.write(path / f"{i}.wav", tones(text, i).numpy(), 16000)
        recording = Recording.from_file(path / f"{i}.wav")
        segment = SupervisionSegment(f"s{i}", recording.id, 0.0, recording.duration, text=text.upper())
        cuts.append(MonoCut(f"c{i}", 0.0, recording.duration, 0, recording=recording, supervisions=[segment]))
    CutSet.from_cuts(cuts).to_file(path / "test.jsonl.gz")
    return path / "test.jsonl.gz"


def test_the_report(tmp_path: Path):
    torch.manual_seed(0)
    model = FakeModel().train()
    spoken = ["abc", "da", "bdca", "c"]
    done: list[tuple[int, int]] = []
    report = evaluate(
        model, manifest(tmp_path, spoken), latencies=(None, 160), progress=lambda *now: done.append(now)
    )
    assert model.training
    assert done[-1] == (4, 4)
    assert [(row.head, row.latency_ms) for row in report.rows] == [("ctc", None), ("ctc", 160)]
    assert report.references == {f"c{i}": text.upper() for i, text in enumerate(spoken)}
    for row in report.rows:
        assert row.utterances == 4
        assert row.words.length == 4
        assert row.characters.length == sum(map(len, spoken))
        assert row.audio_seconds == pytest.approx(0.2 * sum(map(len, spoken)))
        assert row.compute_seconds > 0
    assert report.hypotheses["ctc offline"] == report.hypotheses["ctc 160 ms"]
    read = json.loads(report.to_json())
    assert read["rows"][0]["wer"] == report.rows[0].words.rate
    assert read["references"]["c0"] == "ABC"
    assert report.table().row_count == 2
    some = evaluate(model, tmp_path / "test.jsonl.gz", limit=2)
    assert sorted(some.references) == ["c0", "c2"]


def test_case_counts_only_where_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = FakeModel()
    path = manifest(tmp_path, ["ab"])
    monkeypatch.setattr(model.tokenizer, "decode", lambda tokens: "ab", raising=False)
    assert evaluate(model, path).rows[0].words == Errors(0, 0, 0, 1)
    assert evaluate(model, path, normalize=None).rows[0].words == Errors(1, 0, 0, 1)


def test_a_manifest_that_is_not_there(tmp_path: Path):
    with pytest.raises(DataError, match="missing"):
        evaluate(FakeModel(), tmp_path / "none.jsonl.gz")
