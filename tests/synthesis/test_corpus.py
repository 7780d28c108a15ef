"""From a file of texts to a corpus that training takes."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
from lhotse import CutSet

from asr import audio, bundle
from asr.cli import main
from asr.dataset.cuts import text_of
from asr.errors import ConfigError, DataError
from asr.synthesis import corpus
from asr.synthesis.corpus import TABLE, synthesize
from asr.synthesis.utterances import Manner
from asr.synthesis.voices import VoiceConfig
from asr.training.train import train
from tests.training.conftest import RECIPE

TEXTS = ["The first sentence is here.", "", "And here's the second one!", "a third of them all"]


@pytest.fixture
def manner(hum: str) -> Manner:
    return Manner(VoiceConfig(command=hum, speakers=("1", "2", "3")), speeds=(0.8, 1.2))


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS), encoding="utf-8")
    return path


def rows(out: Path) -> list[list[str]]:
    return [line.split("\t") for line in (out / TABLE).read_text(encoding="utf-8").splitlines()]


def test_a_corpus(texts: Path, manner: Manner, tmp_path: Path) -> None:
    out = tmp_path / "out"
    seen: list[tuple[int, int]] = []
    path = synthesize(
        texts, out, manner, times=3, normalize=("lower", "punctuation"), progress=lambda *at: seen.append(at)
    )
    cuts = CutSet.from_file(path).to_eager()
    assert seen == [(i, 9) for i in range(1, 10)]
    assert sorted({text_of(cut) for cut in cuts}) == [
        "a third of them all",
        "and here's the second one",
        "the first sentence is here",
    ]
    assert len(cuts) == 9 and {cut.supervisions[0].speaker for cut in cuts} == {"1", "2", "3"}
    for cut in cuts:
        samples = audio.read(cut.recording.sources[0].source)
        assert len(samples) >= 1.5 * 16_000 and 0.14 < abs(samples).max() < 0.87
        assert 0 < abs(samples[:1600]).max() < 0.01, "silence that is not digital"
    # `asr prepare custom` takes the table.
    prepare = runpy.run_path(str(Path(__file__).parents[2] / "recipes/custom/prepare.py"))["prepare"]
    prepare(out / TABLE, tmp_path / "custom")
    prepared = [CutSet.from_file(tmp_path / f"custom/{part}.jsonl.gz") for part in ("train", "dev")]
    assert sum(len(one.to_eager()) for one in prepared) == 9


def test_it_goes_on_where_it_was_stopped(
    texts: Path, manner: Manner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole"
    synthesize(texts, whole, manner, times=2)
    out = tmp_path / "out"

    class Killed(BaseException): ...

    def killed(task: Any) -> Any:
        if task.number == 5:
            raise Killed
        return make(task)

    make = corpus.make
    monkeypatch.setattr(corpus, "make", killed)
    with pytest.raises(Killed):
        synthesize(texts, out, manner, times=2)
    assert not (out / "train.jsonl.gz").exists() and len(rows(out)) == 6
    with (out / TABLE).open("a") as table:
        table.write("audio/000/000005.fl")  # cut short
    said = []
    monkeypatch.setattr(corpus, "make", lambda task: said.append(task.number) or make(task))
    synthesize(texts, out, manner, times=2)
    assert said == [5]
    assert rows(out) == rows(whole)
    files = sorted(path.relative_to(out) for path in (out / "audio").rglob("*") if path.is_file())
    assert all((out / path).read_bytes() == (whole / path).read_bytes() for path in files) and len(files) == 6

    said.clear()  # a text that is changed is said anew, and only that
    texts.write_text(texts.read_text().replace("third", "fourth"))
    synthesize(texts, out, manner, times=2)
    assert len(said) == 2 and sum("fourth" in row[1] for row in rows(out)) == 2 and len(rows(out)) == 7
    with pytest.raises(ConfigError, match="holds speech of another voice or with other settings"):
        synthesize(texts, out, Manner(manner.voice, seed=2), times=2)


def test_several_processes_make_the_same(texts: Path, manner: Manner, tmp_path: Path) -> None:
    for jobs in (1, 2):
        synthesize(texts, tmp_path / str(jobs), manner, jobs=jobs)
    assert rows(tmp_path / "1") == rows(tmp_path / "2")
    for path in (tmp_path / "1/audio").rglob("*.flac"):
        assert path.read_bytes() == (tmp_path / "2" / path.relative_to(tmp_path / "1")).read_bytes()


def test_a_table_says_how_it_is_spoken_and_by_whom(manner: Manner, tmp_path: Path) -> None:
    texts = tmp_path / "texts.tsv"
    texts.write_text("text\tspoken\tspeaker\nNUMBER TWO\tnumber 2\t3\nTHIRTY ONE\t31 and more of it\t\n")
    synthesize(texts, tmp_path / "out", manner)
    found = rows(tmp_path / "out")[1:]
    assert [row[1] for row in found] == ["NUMBER TWO", "THIRTY ONE"] and found[0][2] == "3"
    texts.write_text("text\tvoice\nA\tb\n")
    with pytest.raises(
        DataError, match="line 1: expected a header of text and, if wanted, spoken and speaker, not voice"
    ):
        synthesize(texts, tmp_path / "out", manner)


def test_bad_lines_are_named(manner: Manner, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text(
        f"a good line\n---\n{'word ' * 200}\na mute one\nswallow this whole line\nsilence\nthe last one\n"
    )
    with pytest.raises(
        DataError,
        match=r"texts.txt, line 2: nothing to be said in '---'; .*line 3: 999 characters do not go into 20 s.*--skip-bad",
    ):
        synthesize(texts, tmp_path / "out", manner)
    synthesize(texts, tmp_path / "out", manner, skip_bad=True)
    assert [row[1] for row in rows(tmp_path / "out")[1:]] == ["a good line", "the last one"]
    for line, wrong in {
        4: "no tongue",
        5: "words are missing",
        6: "wrote no audio|words are missing",
    }.items():
        assert any(
            f"line {line}: " in text and any(w in text for w in wrong.split("|")) for text in caplog.messages
        ), line
    texts.write_text("a mute one\n")
    with pytest.raises(DataError, match="no tongue"):
        synthesize(texts, tmp_path / "other", Manner(manner.voice, seed=2))
    texts.write_text("a good line\na mute one\n")  # nothing was made, so that another manner may be tried
    with pytest.raises(DataError, match="line 2: .* ends with status 1: no tongue; mend them"):
        synthesize(texts, tmp_path / "other", manner)
    assert len(rows(tmp_path / "other")) == 2, "what was made is kept"
    texts.write_text("\n\n")
    with pytest.raises(DataError, match="no text in it; give a sentence a line"):
        synthesize(texts, tmp_path / "out", manner)
    texts.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="cannot be read as UTF-8"):
        synthesize(texts, tmp_path / "out", manner)


def test_training_takes_it(texts: Path, manner: Manner, tmp_path: Path) -> None:
    synthesize(texts, tmp_path, manner)
    (tmp_path / "train.yaml").write_text(RECIPE.replace("DATA", str(tmp_path)))
    model = bundle.load(train(tmp_path / "train.yaml", ["train.epochs=1"], out=tmp_path / "run"))
    assert "!" in {model.tokenizer.piece(token) for token in range(model.tokenizer.size)}


def test_the_command(texts: Path, hum: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as done:
        main(
            [
                "synthesize",
                str(texts),
                "--command",
                hum,
                "--speakers",
                "0-4",
                "--times",
                "2",
                "--speeds",
                "1,1",
                "--out",
                str(out),
                "--normalize",
                "upper",
            ]
        )
    assert not done.value.code and capsys.readouterr().out == f"{out / 'train.jsonl.gz'}\n"
    assert len(rows(out)) == 7 and rows(out)[1][1] == TEXTS[0].upper()
    with pytest.raises(SystemExit) as done:
        main(["synthesize", str(texts), "--command", hum, "--speeds", "fast", "--out", str(out)])
    assert done.value.code == 1 and "give two factors, as in 0.9,1.1" in capsys.readouterr().err
