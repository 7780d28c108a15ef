from __future__ import annotations

import gzip
import multiprocessing
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lhotse import CutSet

from asr.dataset import validate
from asr.dataset.index import Index, ManifestFile
from asr.dataset.manifest import Manifest
from asr.errors import DataError


def write(path: Path, lines: list[bytes]) -> Path:
    text = b"".join(lines)
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(
    ends=st.lists(st.sampled_from([b"\n", b"\n\n", b"\n  \n", b"\r\n"]), min_size=1, max_size=9),
    compressed=st.booleans(),
    last=st.booleans(),
)
def test_an_index_finds_every_line_that_is_not_blank(tmp_path, ends, compressed, last):
    texts = [b'{"n": %d, "duration": %d.5, "pad": "%s"}' % (i, i, b"x" * i) for i in range(len(ends))]
    lines = [text + end for text, end in zip(texts, ends, strict=True)]
    if last:
        lines[-1] = texts[-1]
    path = write(tmp_path / ("a.jsonl.gz" if compressed else "a.jsonl"), lines)
    index = Index(ManifestFile(path))
    assert [index.line(i).strip() for i in range(len(index))] == texts
    numbers = 1 + np.cumsum([0, *(1 + (end in (b"\n\n", b"\n  \n")) for end in ends[:-1])])
    assert index.numbers.tolist() == numbers.tolist()
    assert index.durations.tolist() == [i + 0.5 for i in range(len(ends))]


@pytest.mark.parametrize("name", ["cuts.jsonl", "cuts.jsonl.gz"])
def test_an_index_is_made_once_and_again_when_the_file_changes(corpus, cache, monkeypatch, name):
    path = corpus([1.0, 2.0], name=name)
    first = Manifest([path])
    monkeypatch.setattr(ManifestFile, "lines", None)  # a second reading would fail
    again = Manifest([path])
    assert [cut.id for cut in again] == [cut.id for cut in first] == ["u000", "u001"]
    monkeypatch.undo()
    CutSet([first[1]]).to_file(path)
    assert [cut.id for cut in Manifest([path])] == ["u001"]
    (folder,) = (cache / "manifests").glob(f"{Index(ManifestFile(path)).path.name.split('-')[0]}-*")
    assert (folder / "lines.jsonl").exists() == (name == "cuts.jsonl.gz")


def test_other_processes_read_the_same(corpus):
    manifest = Manifest([corpus([1.0, 2.0, 3.0])])
    assert manifest[1].id == "u001"
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert [cut.duration for cut in pool.map(manifest.__getitem__, [2, 0, 1])] == [3.0, 1.0, 2.0]
    assert pickle.loads(pickle.dumps(manifest))[2].id == "u002"


def test_places_lie_one_behind_the_other(corpus, tmp_path):
    one, two = corpus([1.0, 2.0, 3.0], name="one.jsonl"), corpus([4.0], name="two.jsonl.gz")
    manifest = Manifest([one, two], leave_out=[(str(one), 2), (str(two), 7)])
    assert manifest.durations.tolist() == [1.0, 3.0, 4.0]
    assert manifest.owner.tolist() == [0, 0, 1]
    assert [manifest.where(i) for i in range(3)] == [f"{one}, line 1", f"{one}, line 3", f"{two}, line 1"]
    assert Manifest([one, two], limit=2).durations.tolist() == [1.0, 3.0]
    assert len(Manifest([])) == 0
    write(tmp_path / "bad.jsonl", [b'{"id": "x", "duration": 1.0}\n', b"nothing\n"])
    with pytest.raises(DataError, match=r"bad.jsonl, line 2 is not a Lhotse cut"):
        Manifest([tmp_path / "bad.jsonl"])


def test_a_cache_that_cannot_be_written_is_told(corpus, tmp_path, monkeypatch):
    path = corpus([1.0])
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RILL_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"index of .*cuts.jsonl.gz cannot be written to .*RILL_CACHE"):
        Manifest([path])


def test_an_index_that_breaks_off_leaves_nothing_behind(corpus, cache):
    path = corpus([1.0] * 30)
    path.write_bytes(path.read_bytes()[:-40])
    before = set(os.listdir(cache / "manifests"))
    with pytest.raises(DataError, match="cannot be read"):
        Manifest([path])
    assert set(os.listdir(cache / "manifests")) == before


def test_a_long_manifest_is_validated_by_processes_once_and_its_audio_sampled(corpus, monkeypatch):
    path = corpus([1.0] * 60)
    path.with_name("audio").joinpath("007.flac").unlink()
    path.with_name("audio").joinpath("010.flac").unlink()
    module = sys.modules["asr.dataset.validate"]
    monkeypatch.setattr(module, "WINDOW", 16)
    alone = validate([path, path], processes=2)
    assert alone.looked_at == alone.lines == 120
    monkeypatch.setattr(module, "KEPT_FROM", 50)
    several = validate([path, path], processes=2)
    assert (several.bad, several.problems) == (alone.bad, alone.problems)
    assert (several.words, several.speakers, several.characters) == (
        alone.words,
        alone.speakers,
        alone.characters,
    )
    sampled = validate([path], most_files=12)
    assert [problem.line for problem in sampled.problems] == [11]
    assert sampled.looked_at == 12
    assert "of 12 lines, spread evenly, the audio was looked at" in sampled.to_text()
    monkeypatch.setattr(module, "_sum_up", None)  # a second validation would fail
    kept = validate([path], most_files=12)
    assert kept.to_text() == sampled.to_text()
    assert kept.bad == sampled.bad
