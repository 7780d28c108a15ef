from __future__ import annotations

import functools
import gzip
import http.server
import io
import json
import os
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet

from asr.dataset import DataConfig, Loader, validate
from asr.dataset import remote as remote_files
from asr.dataset.manifest import Manifest
from asr.dataset.pack import pack
from asr.dataset.remote import fetch
from asr.dataset.shards import SUMMARY
from asr.errors import DataError
from tests.dataset.test_loader import Letters, same

DURATIONS = [0.4 + 0.05 * i for i in range(30)]


def make(places: list[object], **options: object) -> Loader:
    settings = {"max_duration": 5.0, "max_seconds": 3.0, "workers": 0, "shards_at_once": 2} | options
    config = DataConfig(train=tuple(places), **settings)
    return Loader(config.train, config, Letters(), training=True, weights=config.weights)


@pytest.fixture
def shar(corpus, tmp_path) -> Path:
    return pack([corpus(DURATIONS)], tmp_path / "shar", utterances=7)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """The folder by HTTP, over the loopback."""
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def by_id(loader: Loader) -> dict[str, tuple[torch.Tensor, str]]:
    return {
        id: (samples[:length], text)
        for batch in loader
        for id, samples, length, text in zip(
            batch.ids, batch.samples, batch.sample_lens.tolist(), batch.texts, strict=True
        )
    }


def test_shards_hold_what_the_files_hold(corpus, shar):
    files = by_id(make([corpus(DURATIONS)], augment=()))
    shards = by_id(make([shar], augment=()))
    assert shards.keys() == files.keys()
    for id, (samples, text) in files.items():
        assert torch.equal(shards[id][0], samples) and shards[id][1] == text
    assert json.loads((shar / SUMMARY).read_text())["shards"] == 5
    assert validate([shar]).problems == ()
    assert len({Manifest([shar]).shards[i] for i in range(30)}) == 5


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Lhotse leaves its tars open
def test_lhotse_reads_them_too(shar):
    lhotse = CutSet.from_shar(in_dir=str(shar))
    assert {cut.id: round(cut.duration, 3) for cut in lhotse} == {
        f"u{i:03}": round(seconds, 3) for i, seconds in enumerate(DURATIONS)
    }


@pytest.mark.parametrize("kind", ["folder", "http", "memory"])
def test_batches_are_the_same_from_everywhere_with_workers_and_when_resumed(shar, web, kind, tmp_path):
    expected = make([shar])
    order = [*expected, *expected]
    match kind:
        case "folder":
            place = str(shar)
        case "http":
            place = f"{web}/shar"
        case "memory":  # as s3 is: by fsspec, a file system that lists folders
            memory = fsspec.filesystem("memory")
            for path in shar.iterdir():
                if path.name != SUMMARY:
                    memory.pipe_file(f"/{tmp_path.name}/{path.name}", path.read_bytes())
            place = f"memory://{tmp_path.name}"
    assert same(order[: len(expected)], list(make([place], workers=2)))
    for at in (3, len(expected) + 1):
        begun = make([place])
        taken = []
        while len(taken) < at:
            for batch in begun:
                taken.append(batch)
                if len(taken) == at:
                    break
        resumed = make([place], workers=1)
        resumed.load_state_dict(begun.state_dict())
        rest = [batch for _ in range(2) for batch in resumed]
        assert same(order, [*taken, *rest[: len(order) - at]])


def test_an_address_without_a_summary_is_asked_for_its_shards_one_by_one(shar, web):
    (shar / SUMMARY).unlink()
    assert len(Manifest([f"{web}/shar"])) == 30
    with pytest.raises(DataError, match="nothing holds no shards"):
        Manifest([f"{web}/nothing"])


def test_files_and_shards_are_mixed_with_weights(corpus, shar):
    files = corpus([1.0] * 10, name="other.jsonl.gz")
    loader = make([files, shar], augment=(), weights=(1.0, 0.5))
    other = make([files, shar], augment=())
    assert sum(len(batch.ids) for batch in loader) == 10 + 15
    assert sum(len(batch.ids) for batch in other) == 40


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def sound(seconds: float, kind: str) -> bytes:
    with io.BytesIO() as buffer:
        wave = 0.2 * np.sin(np.arange(round(seconds * 16_000)) * (0.05 + 0.1 * seconds))
        soundfile.write(buffer, wave, 16_000, format=kind)
        return buffer.getvalue()


@pytest.mark.parametrize("kind", ["folder", "pattern", "http"])
def test_tars_of_webdataset_are_read(tmp_path, web, kind):
    folder = tmp_path / "web"
    folder.mkdir()
    for number in (8, 9, 10):
        with tarfile.open(folder / f"train-{number:02}.tar", "w") as tar:
            for i in range(4):
                key = f"part{number}/utt.{i}"
                add(
                    tar,
                    f"{key}.txt" if i % 2 else f"{key}.json",
                    b" a b\n" if i % 2 else b'{"sentence": "c d"}',
                )
                add(tar, f"{key}.{'flac' if i else 'wav'}", sound(1 + 0.1 * i, "flac" if i else "wav"))
                add(tar, f"{key}.cls", b"7")
    place = {
        "folder": str(folder),
        "pattern": f"{folder}/train-{{08..10}}.tar",
        "http": f"{web}/web/train-{{08..10}}.tar",
    }[kind]
    manifest = Manifest([place])
    assert len(manifest) == 12
    assert manifest.durations.tolist() == pytest.approx([1.0, 1.1, 1.2, 1.3] * 3)
    found = by_id(make([place], augment=(), workers=2))
    assert found["part9/utt.1"][1] == "a b" and found["part9/utt.2"][1] == "c d"
    expected, _ = soundfile.read(io.BytesIO(sound(1.3, "flac")), dtype="float32")
    np.testing.assert_array_equal(found["part10/utt.3"][0].numpy(), expected)


def test_what_is_wrong_with_shards_is_named(corpus, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds no shards: neither cuts.000000.jsonl.gz .* nor .tar"):
        Manifest([tmp_path / "empty"])
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "x.flac", sound(0.5, "flac"))
    with pytest.raises(DataError, match=r"a.tar, x.flac has no .txt or .json beside it"):
        Manifest([tmp_path / "a.tar"])
    shar = pack([corpus([1.0, 1.0])], tmp_path / "shar", utterances=1)
    with pytest.raises(DataError, match="is there already"):
        pack([corpus([1.0])], shar)
    tar_file = shar / "recording.000001.tar"
    tar_file.write_bytes(tar_file.read_bytes()[:700])
    loader = make([shar], bad_share=0.5)
    assert sum(len(batch.ids) for batch in loader) == 1
    assert "recording.000001.tar" in next(iter(loader.skipped))
    (shar / "cuts.000001.jsonl.gz").write_bytes(gzip.compress(b"{}\n")[:12])
    with pytest.raises(DataError, match=r"cuts.000001.jsonl.gz cannot be read"):
        Manifest([shar])
    monkeypatch.setattr(remote_files, "WAIT", 0.0)
    with pytest.raises(DataError, match=r"http://127.0.0.1:9/x.tar cannot be read \(.*is the address right"):
        fetch("http://127.0.0.1:9/x.tar")
    with pytest.raises(DataError, match=r"nonsense://x/a.tar: .*pip install"):
        fetch("nonsense://x/a.tar")


def test_room_is_made_for_new_shards(tmp_path, web, cache, monkeypatch):
    for i in range(5):
        (tmp_path / f"room-{i}.tar").write_bytes(bytes(100_000))
    monkeypatch.setenv("RILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RILL_CACHE_GB", "0.00025")
    for i in range(5):
        path = fetch(f"{web}/room-{i}.tar")
        assert path.stat().st_size == 100_000
        os.utime(path, (i, i))
    assert sorted(p.name[-10:] for p in path.parent.glob("*.tar")) == ["room-3.tar", "room-4.tar"]
