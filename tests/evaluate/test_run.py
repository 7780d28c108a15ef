from __future__ import annotations

import json
from pathlib import Path

import pytest
import soundfile
import torch
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

from asr.encoders.base import FULL_CONTEXT, Chunk
from asr.errors import DataError
from asr.evaluate import Errors, decode, evaluate, stream
from asr.heads.base import Emission
from tests.training.fakes import FakeModel, batch_of, tones


def tokens(found: list[list[Emission]]) -> list[list[tuple[int, int]]]:
    return [[(e.token, e.frame) for e in emissions] for emissions in found]


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
    offline, streamed = report.rows
    assert offline.delays == {} and offline.step is None
    assert {"first", "final"} <= set(streamed.delays) and streamed.delays["first"].count == 4
    assert streamed.step is not None and streamed.streams == 4 and streamed.confidence is not None
    assert sum(group.words.length for group in streamed.by_length) == 4
    assert [group.name for group in streamed.by_length] == ["under 1 s"]
    assert {group.name for group in streamed.by_speaker} == {f"c{i}" for i in range(4)}
    low, high = streamed.interval
    assert low <= streamed.words.rate <= high
    some = evaluate(model, tmp_path / "test.jsonl.gz", limit=2)
    assert sorted(some.references) == ["c0", "c2"]


def test_case_counts_only_where_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = FakeModel()
    path = manifest(tmp_path, ["ab"])
    monkeypatch.setattr(model.tokenizer, "decode", lambda tokens: "ab", raising=False)
    assert evaluate(model, path).rows[0].words == Errors(0, 0, 0, 1)
    assert evaluate(model, path, normalize=()).rows[0].words == Errors(1, 0, 0, 1)


def test_a_manifest_that_is_not_there(tmp_path: Path):
    with pytest.raises(DataError, match="missing"):
        evaluate(FakeModel(), tmp_path / "none.jsonl.gz")
