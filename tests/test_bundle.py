from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import asr
from asr import bundle
from asr.errors import BundleError, ConfigError
from models import small_model
from test_streaming_equals_offline import speech


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model().save(tmp_path_factory.mktemp("bundles") / "small")


@pytest.mark.parametrize("name", ["again", "again.tar"])
def test_a_saved_model_says_the_same(saved: Path, tmp_path: Path, name: str) -> None:
    model = asr.load(saved)
    again = asr.load(model.save(tmp_path / name))
    samples = speech(5, 2.0)
    assert model.transcribe(samples) == again.transcribe(samples)
    assert len(model.transcribe(samples).words) > 0
    assert {p.name for p in saved.iterdir()} == {
        "model.safetensors",
        "config.yaml",
        "tokenizer.json",
        "card.md",
    }


def test_saving_over_a_bundle_replaces_it(saved: Path, tmp_path: Path) -> None:
    model = asr.load(saved)
    path = bundle.save(model, tmp_path / "model", card="# one\n")
    bundle.save(model, path, card="# two\n")
    assert (path / "card.md").read_text() == "# two\n"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_half_precision_is_half_the_size(saved: Path, tmp_path: Path) -> None:
    half = bundle.save(asr.load(saved), tmp_path / "half", dtype=torch.float16)
    sizes = [(path / "model.safetensors").stat().st_size for path in (saved, half)]
    assert sizes[1] < 0.6 * sizes[0]
    assert all(p.dtype == torch.float32 for p in asr.load(half).parameters())


def copy(saved: Path, to: Path) -> Path:
    to.mkdir()
    for file in saved.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def test_bundles_that_are_damaged(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such bundle"):
        asr.load(tmp_path / "nothing")
    path = copy(saved, tmp_path / "a")
    weights = path / "model.safetensors"
    whole = weights.read_bytes()
    for cut in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        weights.write_bytes(whole[:cut])
        with pytest.raises(BundleError, match=r"model\.safetensors: truncated or damaged"):
            asr.load(path)
    weights.unlink()
    with pytest.raises(BundleError, match=r"model\.safetensors is missing"):
        asr.load(path)
    path = copy(saved, tmp_path / "b")
    (path / "tokenizer.json").unlink()
    with pytest.raises(BundleError, match=r"tokenizer\.json is missing"):
        asr.load(path)
    tar = small_model().save(tmp_path / "c.tar")
    tar.write_bytes(tar.read_bytes()[:1500])
    with pytest.raises(BundleError, match=r"c\.tar"):
        asr.load(tar)


def test_configurations_of_another_model(saved: Path, tmp_path: Path) -> None:
    path = copy(saved, tmp_path / "a")
    config = path / "config.yaml"
    text = config.read_text()
    config.write_text(text.replace("flush_ms", "flush_mss"))
    with pytest.raises(ConfigError, match=r"config\.yaml.*flush_mss.*flush_ms"):
        asr.load(path)
    config.write_text(text.replace("joiner_dim: 16", "joiner_dim: 24"))
    with pytest.raises(BundleError, match=r"has shape .* says"):
        asr.load(path)
    config.write_text("")
    with pytest.raises(BundleError, match="truncated"):
        asr.load(path)


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("notes")
    with pytest.raises(BundleError, match="is a file"):
        small_model().save(tmp_path / "model")
    assert (tmp_path / "model").read_text() == "notes"


def test_python_interface(saved: Path) -> None:
    transcript = asr.load(saved).transcribe(speech(6, 3.0))
    assert isinstance(transcript, asr.Transcript) and isinstance(transcript.words[0], asr.Word)
    assert transcript.text == " ".join(word.text for word in transcript.words)
    starts = np.array([[w.start, w.end] for w in transcript.words])
    assert (np.diff(starts.ravel()) >= 0).all() and starts.min() >= 0 and starts.max() <= 3.0
    assert all(0 < w.confidence <= 1 for w in transcript.words)
