from __future__ import annotations

import dataclasses
import gzip

import pytest
import soundfile
from lhotse import CutSet

from asr.dataset import Loader, check, validate
from asr.dataset.config import DataConfig
from asr.errors import DataError


def segment(cut, **change):
    cut.supervisions = [dataclasses.replace(cut.supervisions[0], **change)]


def overlap(cut):
    one = cut.supervisions[0]
    cut.supervisions = [
        dataclasses.replace(one, id="x", start=0.0, duration=0.6),
        dataclasses.replace(one, id="y", start=0.4, duration=0.6),
    ]


def file_of(cut):
    return cut.recording.sources[0].source


def write_text(cut):
    with open(file_of(cut), "w") as file:
        file.write("This is a transcript, not audio.\n" * 99)


def truncate_file(cut):
    with open(file_of(cut), "r+b") as file:
        file.truncate(1500)


def shorter_file(cut):
    soundfile.write(file_of(cut), [0.1] * 8000, 16_000)


def other_rate(cut):
    soundfile.write(file_of(cut), [0.1] * 8000, 8_000)


def past_recording(cut):
    cut.start = 0.5


BAD = {
    "empty supervision": (lambda cut: segment(cut, text="  "), "supervision u002 is empty"),
    "no text": (lambda cut: segment(cut, text=None), "supervision u002 is empty"),
    "no supervision": (lambda cut: setattr(cut, "supervisions", []), "no supervision"),
    "past the end": (lambda cut: segment(cut, duration=1.7), r"u002 ends 0.70 s past the audio's end"),
    "before the cut": (lambda cut: segment(cut, start=-0.3), "starts 0.30 s before the cut"),
    "no duration": (lambda cut: segment(cut, duration=0.0), "supervision u002 lasts 0 s"),
    "negative duration": (lambda cut: segment(cut, duration=-1.0), "supervision u002 lasts -1 s"),
    "overlap": (overlap, "supervisions x and y overlap"),
    "cut past its recording": (past_recording, "0.50 s past its recording's end"),
    "not unicode": (lambda cut: segment(cut, text="na\ufffdve"), r"U\+FFFD"),
    "control character": (lambda cut: segment(cut, text="a\x07b"), r"U\+0007"),
    "punctuation only": (lambda cut: segment(cut, text="..."), "no letter"),
    "text of other audio": (lambda cut: segment(cut, text="word " * 40), "200 characters in 1.00 s"),
    "text file named audio": (write_text, "002.flac is not audio"),
    "truncated FLAC": (truncate_file, "002.flac is truncated"),
    "empty file": (lambda cut: open(file_of(cut), "wb").close(), "002.flac is empty"),
    "missing file": (
        lambda cut: setattr(cut.recording.sources[0], "source", "gone.flac"),
        "gone.flac is missing",
    ),
    "shorter file": (shorter_file, r"lasts 0.50 s, but the manifest says 1.00 s"),
    "other rate": (other_rate, "has 8000 Hz, but the manifest says 16000"),
}


@pytest.mark.parametrize("kind", BAD)
def test_each_bad_item_is_named_and_the_rest_goes_on_if_told_so(edit, kind):
    change, message = BAD[kind]
    path = edit(change)
    with pytest.raises(
        DataError, match=rf"1 of 5 lines are bad: {path}, line 3, u002: .*{message}.*bad_share=0.2"
    ):
        check([path])
    report = check([path], bad_share=1.0)
    assert report.bad == {(str(path), 3)}
    assert report.utterances == 4
    config = DataConfig(train=(path,), workers=0)
    loader = Loader([path], config, None, training=False, leave_out=report.bad)
    assert len(loader.manifest) == 4


def test_a_good_corpus_is_summed_up(corpus):
    path = corpus([1.0, 2.0, 3.0, 12.0])
    calls = []
    report = validate([path], decode=True, progress=lambda done, total: calls.append((done, total)))
    assert report.problems == ()
    assert report.hours == pytest.approx(18 / 3600)
    assert (report.utterances, report.speakers, report.words, report.lines) == (4, 2, 8, 4)
    assert set(report.characters) == set("Word 0123")
    assert calls == [(4, 4)]
    text = report.to_text()
    assert "0.01 h, 4 utterances, 2 speakers, 8 words" in text
    assert "shortest 1.00, 5 % 1.15, median 2.50, 95 % 10.65, longest 12.00" in text
    assert "0 problems in 0 of 4 lines" in text


def test_decoding_finds_damage_that_the_header_hides(corpus):
    path = corpus([1.0, 1.0])
    file = path.parent / "audio/001.flac"
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle - 300 : middle] = bytes(300)
    file.write_bytes(data)
    assert validate([path]).problems == ()
    (problem,) = validate([path], decode=True).problems
    assert problem.id == "u001"
    assert "cannot be read" in problem.what


def test_an_id_twice_is_the_second_ones_problem(corpus):
    path = corpus([1.0, 1.0])
    copy = path.parent / "copy.jsonl.gz"
    copy.write_bytes(path.read_bytes())
    report = validate([path, copy])
    assert [problem.line for problem in report.problems if problem.file == str(copy)] == [1, 2]
    assert f"stands already in {path}, line 1" in report.problems[0].what
    assert report.utterances == 2


def test_lines_that_are_no_cuts_are_named(corpus):
    path = corpus([1.0])
    lines = gzip.decompress(path.read_bytes())
    plain = path.with_suffix("")
    plain.write_bytes(lines + b"\n{broken\n" + b'{"id": "r", "type": "MonoCut"}\n[]\n')
    report = validate([plain])
    assert [problem.line for problem in report.problems] == [3, 4, 5]
    assert all("not a Lhotse cut" in problem.what for problem in report.problems)
    with pytest.raises(DataError, match="3 of 4 lines are bad: .*, line 3, no cut: is not a Lhotse cut"):
        check([plain])
    assert "and 2 more" in report.to_text(most=1)


def test_missing_and_damaged_manifests(corpus, tmp_path):
    with pytest.raises(DataError, match=r"nowhere.jsonl.gz is missing: `asr prepare"):
        validate([tmp_path / "nowhere.jsonl.gz"])
    path = corpus([1.0] * 30)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="cannot be read"):
        validate([path])
    path.write_text("no gzip")
    with pytest.raises(DataError, match="cannot be read"):
        validate([path])


def test_nothing_good_left(edit, corpus):
    path = corpus([1.0])
    cuts = list(CutSet.from_file(path))
    segment(cuts[0], text="")
    CutSet(cuts).to_file(path)
    with pytest.raises(DataError, match="no good utterance"):
        check([path], bad_share=1.0)
