from __future__ import annotations

from pathlib import Path

import pytest

from asr.errors import BundleError, ConfigError, DataError
from asr.paths import embedded_model, find_audio, outputs, parse_latencies, recipe_script


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("a.wav", "b.FLAC", "notes.txt", "deep/er/c.opus", "deep/a.wav"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def test_folders_are_walked_for_audio(tree: Path) -> None:
    assert [r.place.as_posix() for r in find_audio([tree])] == [
        "a.wav",
        "b.FLAC",
        "deep/a.wav",
        "deep/er/c.opus",
    ]


def test_patterns_files_and_folders_each_once(tree: Path) -> None:
    found = find_audio([str(tree / "**/*.wav"), tree / "a.wav", tree / "deep", "absent.wav"])
    assert [r.path for r in found] == [
        tree / "a.wav", tree / "deep/a.wav", tree / "deep/er/c.opus", Path("absent.wav"),
    ]  # fmt: skip


def test_a_named_file_may_be_called_anything(tree: Path) -> None:
    assert [r.path for r in find_audio([tree / "notes.txt"])] == [tree / "notes.txt"]


def test_nothing_found_is_an_error(tree: Path) -> None:
    (tree / "empty").mkdir()
    with pytest.raises(DataError, match="no audio in this folder"):
        find_audio([tree / "empty"])
    with pytest.raises(DataError, match="no file matches"):
        find_audio([str(tree / "*.mp3")])


def test_a_file_with_brackets_in_its_name_is_a_file(tree: Path) -> None:
    (tree / "take [1].wav").touch()
    assert [r.path for r in find_audio([tree / "take [1].wav"])] == [tree / "take [1].wav"]


def test_outputs_lie_beside_or_mirror_the_folder(tree: Path) -> None:
    recordings = find_audio([tree])
    assert outputs(recordings, out=None, suffix="srt")[2] == tree / "deep/a.srt"
    assert outputs(recordings, out=Path("o"), suffix="txt") == [
        Path("o/a.txt"), Path("o/b.txt"), Path("o/deep/a.txt"), Path("o/deep/er/c.txt"),
    ]  # fmt: skip


def test_outputs_of_recordings_that_share_a_name(tree: Path) -> None:
    (tree / "a.flac").touch()
    recordings = find_audio([tree / "a.wav", tree / "a.flac"])
    assert [path.name for path in outputs(recordings, out=None, suffix="txt")] == ["a.wav.txt", "a.flac.txt"]
    with pytest.raises(DataError, match="two recordings would be written here"):
        outputs(find_audio([tree / "a.wav", tree / "deep/a.wav"]), out=Path("o"), suffix="txt")


def test_names_with_dots_keep_them() -> None:
    assert outputs(find_audio(["talk.v1.wav"]), out=None, suffix="json") == [Path("talk.v1.json")]


def test_recipes_by_name_and_by_path(tmp_path: Path) -> None:
    assert recipe_script("an4").parts[-3:] == ("recipes", "an4", "prepare.py")
    (tmp_path / "prepare.py").touch()
    assert (
        recipe_script(str(tmp_path)) == recipe_script(str(tmp_path / "prepare.py")) == tmp_path / "prepare.py"
    )
    with pytest.raises(ConfigError, match="no recipe is called 'x'.*an4"):
        recipe_script("x")


def test_the_model_that_is_meant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RILL_MODEL", str(tmp_path))
    assert embedded_model() == tmp_path
    monkeypatch.delenv("RILL_MODEL")
    monkeypatch.setattr("asr.paths._ROOT", tmp_path)
    with pytest.raises(BundleError, match="--model"):
        embedded_model()
    (tmp_path / "data/models/small").mkdir(parents=True)
    (tmp_path / "data/models/small/config.yaml").touch()
    assert embedded_model() == tmp_path / "data/models/small"


def test_latencies() -> None:
    assert parse_latencies("offline, 320", (320, 640)) == [None, 320]
    assert parse_latencies("all", (320, 640)) == [None, 320, 640]
    with pytest.raises(ConfigError, match="offline,450"):
        parse_latencies("fast", ())
