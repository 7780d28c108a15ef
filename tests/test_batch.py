"""Transcribing many files: what is printed, what is written, and what happens to those that cannot be read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import asr.transcribe
from asr.batch import Job, run
from asr.errors import AudioError, ConfigError
from asr.transcript import Transcript, Word


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A recogniser that hears each file's name."""
    seen: list[dict[str, Any]] = []

    def transcribe_files(
        model: object, sources: Sequence[Path], *, progress: Callable[[float], None], **options: Any
    ) -> Iterator[tuple[Path, Transcript | AudioError]]:
        seen.append(options)
        for source in sources:
            if not source.exists():
                yield source, AudioError(f"{source}: no such file")
                continue
            progress(1.0)
            yield source, Transcript((Word(source.stem.upper(), 0.0, 0.5, 0.75),), 1.0)

    monkeypatch.setattr(asr.transcribe, "transcribe_files", transcribe_files)
    return seen


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("one.wav", "sub/two.flac"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / name, np.zeros(16_000), 16_000)
    return tmp_path


def start(*audio: object, **options: Any) -> int:
    return run(None, Job(audio=tuple(map(str, audio)), **options))  # type: ignore[arg-type]


def test_one_file_prints_its_text(
    calls: list[dict[str, Any]], tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(tree / "one.wav", latency_ms=320, head="ctc", batch_seconds=7.0) == 0
    assert capsys.readouterr() == ("ONE\n", "")
    assert calls == [{"latency_ms": 320, "head": "ctc", "search": None, "batch_seconds": 7.0}]


@pytest.mark.usefixtures("calls")
def test_several_files_print_their_names(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start(tree, words=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{tree}/one.wav: ONE" and lines[2].split() == ["0.00", "0.50", "0.75", "ONE"]


@pytest.mark.usefixtures("calls")
def test_files_are_written_beside_or_below(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert start(tree, formats="txt,json") == 0
    assert (tree / "sub/two.txt").read_text() == "TWO\n"
    assert json.loads((tree / "one.json").read_text())["words"][0]["text"] == "ONE"
    assert start(tree, formats="srt, VTT", out=tree / "out") == 0
    assert sorted(path.name for path in (tree / "out").rglob("*.*")) == [
        "one.srt",
        "one.vtt",
        "two.srt",
        "two.vtt",
    ]
    assert start(tree / "one.wav", out=tree / "plain") == 0
    assert (tree / "plain/one.txt").read_text() == "ONE\n"
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("calls")
def test_a_bad_file_is_reported_and_the_others_go_on(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert start(tree / "absent.wav", tree / "one.wav") == 1
    out, err = capsys.readouterr()
    assert out == f"{tree}/one.wav: ONE\n"
    assert err.splitlines() == [
        f"error: {tree}/absent.wav: no such file",
        "error: 1 of 2 files could not be read; the others are done",
    ]


def test_an_unknown_format_is_an_error_before_anything_is_read(
    calls: list[dict[str, Any]], tree: Path
) -> None:
    with pytest.raises(ConfigError, match="'doc' is none of txt, json, srt, vtt"):
        start(tree, formats="txt,doc")
    assert not calls
