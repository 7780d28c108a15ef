"""Each recipe on a corpus made in its exact layout, and on the real one where RILL_CORPORA says where it is."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

from asr.dataset import validate
from asr.dataset.corpus import audio_files, speaker_of
from asr.dataset.cuts import text_of
from asr.errors import DataError

ROOT = Path(__file__).parent.parent.parent
CORPORA = Path(os.environ.get("RILL_CORPORA", "nowhere"))
real = pytest.mark.skipif(
    not CORPORA.is_dir(), reason="RILL_CORPORA does not name the folder of the real corpora"
)


def recipe(name: str) -> Callable[..., None]:
    prepare: Callable[..., None] = runpy.run_path(str(ROOT / "recipes" / name / "prepare.py"))["prepare"]
    return prepare


def read(out: Path) -> dict[str, list]:
    return {path.name.split(".")[0]: list(CutSet.from_file(path)) for path in sorted(out.glob("*.jsonl.gz"))}


def texts(cuts) -> dict[str, str]:
    return {cut.id: text_of(cut) for cut in cuts}


def write(path: Path, content: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".flac", ".wav", ".opus"):
        path = path.with_suffix(".flac") if path.suffix == ".opus" else path
        soundfile.write(path, 0.1 * np.sin(np.arange(4800) * 0.2), 16_000)
    else:
        path.write_text(content)
    return path


def an4(folder: Path) -> Path:
    for part, speakers, form in (("train", "abcdef", "<s> {} </s> ({})"), ("test", "xy", "{} ({})")):
        base = "an4_clstk" if part == "train" else "an4test_clstk"
        names = [(speaker, f"an{i}-{speaker}-b") for speaker in speakers for i in range(30)]
        for speaker, name in names:
            write(folder / f"wav/{base}/{speaker}/{name}.flac")
        write(folder / f"etc/an4_{part}.fileids", "".join(f"{base}/{s}/{name}\n" for s, name in names))
        lines = [form.format(f"YES {s.upper()} ONE", name) + "\n" for s, name in names]
        write(folder / f"etc/an4_{part}.transcription", "".join(lines))
    return folder


def speechocean762(folder: Path) -> Path:
    for part, speakers in (("train", range(100, 112)), ("test", range(200, 203))):
        ids = [(speaker, f"{speaker}{i:04}") for speaker in speakers for i in range(20)]
        for speaker, id in ids:
            write(folder / f"WAVE/SPEAKER{speaker}/{id}.flac")
        write(folder / part / "wav.scp", "".join(f"{id}\tWAVE/SPEAKER{s}/{id}.flac\n" for s, id in ids))
        write(folder / part / "text", "".join(f"{id}\tWE CALL IT BEAR\n" for _, id in ids))
        write(folder / part / "utt2spk", "".join(f"{id} {s}\n" for s, id in ids))
    return folder


def robotutor(folder: Path) -> Path:
    for part, stories in (("train", ["1_1", "1_2", "1_3"]), ("test", ["2_1"])):
        rows = ["path\ttext"]
        for story in stories:
            for i in range(60):
                write(folder / f"audio/{story}/s{i}.flac")
                rows.append(f"audio/{story}/s{i}.flac\tThe cat's hat is {i} in the {story[0]}st story")
        write(folder / f"{part}.tsv", "\n".join(rows) + "\n")
    return folder


def librispeech(folder: Path, parts: tuple[str, ...] = ("train-clean-100",), speakers: int = 2) -> Path:
    for number, part in enumerate(parts):
        for speaker in range(number * 100 + 10, number * 100 + 10 + speakers):
            chapter = folder / part / str(speaker) / "7"
            ids = [f"{speaker}-7-{i:04}" for i in range(20)]
            for id in ids:
                write(chapter / f"{id}.flac")
            write(
                chapter / f"{speaker}-7.trans.txt",
                "".join(f"{id} IT WAS NO O'CLOCK\n" for id in ids),
            )
    return folder


def english(folder: Path) -> Path:
    an4(folder / "an4")
    speechocean762(folder / "speechocean762")
    robotutor(folder / "robotutor-stories")
    librispeech(folder / "LibriSpeech")
    return folder


def test_an4(tmp_path):
    recipe("an4")(an4(tmp_path / "an4"), tmp_path / "out")
    splits = read(tmp_path / "out")
    assert {name: len(cuts) for name, cuts in splits.items()} == {"train": 90, "dev": 90, "test": 60}
    speakers = {name: {speaker_of(cut) for cut in cuts} for name, cuts in splits.items()}
    assert not speakers["train"] & speakers["dev"]
    assert speakers["test"] == {"x", "y"}
    assert texts(splits["test"])["an7-x-b"] == "YES X ONE"
    train = splits["train"][0]
    assert texts([train])[train.id] == f"YES {speaker_of(train).upper()} ONE"
    assert Path(audio_files(train)[0]).is_absolute()
    assert validate([tmp_path / "out/train.jsonl.gz"], decode=True).problems == ()


def test_an4_names_a_line_that_does_not_fit(tmp_path):
    corpus = an4(tmp_path / "an4")
    table = corpus / "etc/an4_test.transcription"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[1], lines[0], *lines[2:]]))
    with pytest.raises(
        DataError, match=r"an4_test.transcription, line 1: expected a text that ends with \(an0-x-b\)"
    ):
        recipe("an4")(corpus, tmp_path / "out")
    table.write_text("\n".join(lines[1:]))
    with pytest.raises(DataError, match=r"has 59 lines, but an4_test.fileids has 60"):
        recipe("an4")(corpus, tmp_path / "out")


def test_speechocean762(tmp_path):
    recipe("speechocean762")(speechocean762(tmp_path / "c"), tmp_path / "out")
    splits = read(tmp_path / "out")
    assert {name: len(cuts) for name, cuts in splits.items()} == {"train": 100, "dev": 140, "test": 60}
    assert not {speaker_of(cut) for cut in splits["train"]} & {speaker_of(cut) for cut in splits["dev"]}
    assert set(texts(splits["test"]).values()) == {"WE CALL IT BEAR"}


def test_librispeech_in_part(tmp_path):
    recipe("librispeech")(librispeech(tmp_path / "c"), tmp_path / "out")
    splits = read(tmp_path / "out")
    assert {name: len(cuts) for name, cuts in splits.items()} == {"train": 38, "dev": 2}
    cut = splits["train"][0]
    assert cut.id == cut.supervisions[0].id == Path(audio_files(cut)[0]).stem
    assert (speaker_of(cut), cut.supervisions[0].language) == ("10", "en")
    assert texts([cut])[cut.id] == "IT WAS NO O'CLOCK"


def test_librispeech_with_its_own_dev_and_tests(tmp_path):
    parts = ("train-clean-100", "train-other-500", "dev-clean", "dev-other", "test-clean", "test-other")
    recipe("librispeech")(librispeech(tmp_path / "c", parts, speakers=1), tmp_path / "out")
    counts = {name: len(cuts) for name, cuts in read(tmp_path / "out").items()}
    assert counts == {"train": 40, "dev": 40, "test-clean": 20, "test-other": 20}


def test_librispeech_holds_whole_speakers_out_where_there_are_many(tmp_path):
    recipe("librispeech")(librispeech(tmp_path / "c", speakers=20), tmp_path / "out")
    splits = read(tmp_path / "out")
    assert {speaker_of(cut) for cut in splits["dev"]}.isdisjoint(speaker_of(cut) for cut in splits["train"])
    assert len(splits["dev"]) == 20


def test_librispeech_names_missing_files(tmp_path):
    corpus = librispeech(tmp_path / "c")
    (corpus / "train-clean-100/10/7/10-7-0003.flac").unlink()
    with pytest.raises(
        DataError, match=r"1 files are missing: .*10-7-0003.flac \(of 10-7.trans.txt, line 4\)"
    ):
        recipe("librispeech")(corpus, tmp_path / "out")
    recipe("librispeech")(corpus, tmp_path / "out", skip_bad=True)
    assert sum(map(len, read(tmp_path / "out").values())) == 39
    (corpus / "train-clean-100/10/7/10-7.trans.txt").write_text("10-7-0000\n")
    with pytest.raises(DataError, match="cannot be read by Lhotse's LibriSpeech recipe"):
        recipe("librispeech")(corpus, tmp_path / "out")


def test_english_keeps_tests_out_of_training(tmp_path):
    corpora = english(tmp_path / "corpora")
    rows = ["path\ttext\tspeaker\tduration"]
    for i in range(40):
        write(tmp_path / f"made/audio/{i}.flac")
        text = "THE CAT'S HAT IS SEVEN IN THE TWO ST STORY" if i == 7 else f"made sentence {i}"
        rows.append(f"audio/{i}.flac\t{text}\tvoice{i}\t0.3")
    rows += ["audio/not-there-yet.flac\tLATER\tvoice1\t0.3", "audio/unfin"]
    table = write(tmp_path / "made/manifest.tsv", "\n".join(rows))
    recipe("english")(corpora, tmp_path / "out", synthesised=table)
    whole = read(tmp_path / "out")
    names = {"an4", "speechocean762", "robotutor", "librispeech", "synthesised"}
    parts = {name: read(tmp_path / "out" / name) for name in names}
    for split in ("train", "dev", "test"):
        assert sorted(c.id for c in whole[split]) == sorted(
            c.id for name in names for c in parts[name].get(split, [])
        )
    assert len(parts["an4"]["test"]) == 60
    assert len(parts["speechocean762"]["test"]) == 60
    assert len(parts["robotutor"]["test"]) == 60
    assert {speaker_of(cut) for cut in parts["synthesised"]["dev"]} == {"synthesised-voice25"}, (
        "a voice held out"
    )
    assert sum(map(len, parts["synthesised"].values())) == 39, "a test sentence is left out"
    assert "synthesised-audio-7" not in {cut.id for cuts in parts["synthesised"].values() for cut in cuts}
    assert_disjoint(whole)
    assert texts(parts["robotutor"]["test"])["robotutor-audio-2_1-s12"] == (
        "THE CAT'S HAT IS TWELVE IN THE TWO ST STORY"
    )
    assert {cut.id.split("-")[0] for cut in whole["train"]} == names
    assert all(speaker_of(cut).startswith(cut.id.split("-")[0]) for cut in whole["train"])


def test_english_without_a_held_out_voice_and_without_a_table(tmp_path):
    corpora = english(tmp_path / "corpora")
    write(tmp_path / "made/0.flac")
    table = write(tmp_path / "made/manifest.tsv", "path\ttext\tspeaker\n0.flac\tHELLO\tvoice1\n")
    recipe("english")(corpora, tmp_path / "out", synthesised=table)
    assert {name: len(cuts) for name, cuts in read(tmp_path / "out/synthesised").items()} == {"train": 1}
    with pytest.raises(DataError, match="`asr synthesize` writes it"):
        recipe("english")(corpora, tmp_path / "out", synthesised=tmp_path / "nothing.tsv")
    recipe("english")(corpora, tmp_path / "real")
    assert not (tmp_path / "real/synthesised").exists()


def assert_disjoint(splits) -> None:
    for key in (lambda cut: {cut.id}, lambda cut: set(audio_files(cut)), lambda cut: {cut.recording.id}):
        sets = [set().union(*map(key, splits[name])) for name in ("train", "dev", "test")]
        assert all(sets)
        assert not sets[0] & sets[1]
        assert not sets[0] & sets[2]
        assert not sets[1] & sets[2]


def test_mini_comes_with_absolute_paths(tmp_path):
    corpus = tmp_path / "mini"
    for split in ("train", "dev", "test"):
        write(corpus / f"audio/{split}.flac")
        recording = Recording.from_file(corpus / f"audio/{split}.flac")
        recording.sources[0].source = f"audio/{split}.flac"
        segment = SupervisionSegment(split, recording.id, 0.0, recording.duration, text="HELLO")
        cut = MonoCut(split, 0.0, recording.duration, 0, recording=recording, supervisions=[segment])
        CutSet([cut]).to_file(corpus / f"{split}.jsonl.gz")
    recipe("mini")(corpus, tmp_path / "out")
    (cut,) = read(tmp_path / "out")["test"]
    assert audio_files(cut) == [str(corpus / "audio/test.flac")]
    (corpus / "audio/dev.flac").unlink()
    with pytest.raises(DataError, match=r"dev.jsonl.gz, line 1: .*audio/dev.flac is missing"):
        recipe("mini")(corpus, tmp_path / "out")


@pytest.mark.skipif(
    not (ROOT / "data/mini/train.jsonl.gz").exists(), reason="the embedded corpus is not there"
)
def test_the_embedded_corpus_is_whole(tmp_path):
    recipe("mini")(ROOT / "data/mini", tmp_path)
    report = validate([tmp_path / f"{split}.jsonl.gz" for split in ("train", "dev", "test")])
    assert report.problems == ()
    assert_disjoint(read(tmp_path))


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("an4", "etc/an4_train.fileids is missing"),
        ("speechocean762", "train/wav.scp is missing"),
        ("librispeech", "none of train-clean-100"),
        ("english", "an4 is missing"),
        ("mini", "train.jsonl.gz is missing"),
    ],
)
def test_a_directory_that_is_another_names_what_is_missing(tmp_path, name, missing):
    with pytest.raises(DataError, match=missing):
        recipe(name)(tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match="is not"):
        recipe(name)(tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_recipe_runs_as_a_script(tmp_path):
    script = ROOT / "recipes/an4/prepare.py"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script), str(an4(tmp_path / "an4")), str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "test.jsonl.gz: 0.01 h, 60 utterances, 2 speakers" in done.stderr
    command[2] = str(tmp_path)
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("prepare.py: ")
    assert len(done.stderr.strip().splitlines()) == 1


@real
def test_the_real_an4_has_its_published_test_set(tmp_path):
    recipe("an4")(CORPORA / "an4", tmp_path)
    splits = read(tmp_path)
    assert {name: len(cuts) for name, cuts in splits.items()} == {"train": 846, "dev": 102, "test": 130}
    assert sum(len(text.split()) for text in texts(splits["test"]).values()) == 773
    assert len({speaker_of(cut) for cut in splits["test"]}) == 10
    assert_disjoint(splits)
    speakers = [{speaker_of(cut) for cut in splits[name]} for name in ("train", "dev", "test")]
    assert len(set().union(*speakers)) == sum(map(len, speakers)) == 84
    report = validate([tmp_path / f"{name}.jsonl.gz" for name in splits])
    assert report.problems == ()
    assert set(report.characters) <= set(" ABCDEFGHIJKLMNOPQRSTUVWXYZ")


@real
@pytest.mark.slow
def test_the_real_english_mix(tmp_path):
    recipe("english")(CORPORA, tmp_path)
    whole = read(tmp_path)
    assert_disjoint(whole)
    counts = {
        name: {split: len(cuts) for split, cuts in read(tmp_path / name).items()}
        for name in ("an4", "speechocean762", "robotutor", "librispeech")
    }
    assert counts["an4"]["test"] == 130
    assert counts["speechocean762"] == {"train": 2360, "dev": 140, "test": 2500}
    assert counts["robotutor"]["test"] == 254
    # Left out of the 2,106 are recordings that are in test, or twice: "Dad and Sam sit on the mat" and some single words.
    assert 2080 < counts["robotutor"]["train"] + counts["robotutor"]["dev"] < 2106
    in_test = {(text_of(cut), cut.num_samples) for cut in whole["test"] if cut.id.startswith("robotutor")}
    assert not in_test & {
        (text_of(cut), cut.num_samples) for cut in whole["train"] if cut.id.startswith("robotutor")
    }
    assert sum(counts["librispeech"].values()) == 129
    report = validate([tmp_path / "train.jsonl.gz"])
    assert report.problems == ()
    assert report.hours == pytest.approx(4.98, abs=0.02)
    assert set(report.characters) == set(" 'ABCDEFGHIJKLMNOPQRSTUVWXYZ")
