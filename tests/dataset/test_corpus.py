from __future__ import annotations

import dataclasses
import logging

import pytest
from lhotse import CutSet

from asr.dataset.corpus import (
    Utterance,
    command_line,
    hold_out,
    require,
    speaker_of,
    to_cuts,
    write_splits,
)
from asr.errors import DataError
from asr.text import letters_only, number_words


def test_bad_audio_is_named_with_its_line_or_left_out(tone, tmp_path, caplog):
    good = Utterance(id="a", path=tone("a.wav", 1.0), text="A", speaker="s")
    (tmp_path / "b.wav").write_text("This is text.")
    bad = dataclasses.replace(good, id="b", path=tmp_path / "b.wav", where="t.tsv, line 3")
    gone = dataclasses.replace(good, id="c", path=tmp_path / "c.wav", where="t.tsv, line 4")
    with pytest.raises(
        DataError, match=r"2 of 3 audio files .*t.tsv, line 3: .*b.wav is not audio.*c.wav is missing"
    ):
        to_cuts([good, bad, gone])
    assert [cut.id for cut in to_cuts([good, bad, gone], skip_bad=True)] == ["a"]
    assert "left out 2 of 3" in caplog.text


def test_held_out_speakers_are_whole_stable_and_about_as_many(corpus):
    cuts = CutSet.from_file(corpus([0.1] * 60)).to_eager()
    for i, cut in enumerate(cuts):
        cut.supervisions[0].speaker = f"s{i // 5}"
    rest, held = hold_out(cuts, utterances=13)
    assert len(rest) + len(held) == 60
    assert abs(len(held) - 13) <= 2
    assert not {speaker_of(cut) for cut in rest} & {speaker_of(cut) for cut in held}
    assert {c.id for c in held} == {c.id for c in hold_out(cuts, utterances=13)[1]}
    one_speaker = CutSet(cut for cut in cuts if speaker_of(cut) == "s1")
    assert len(hold_out(one_speaker, utterances=5)[1]) == 0, "someone must stay"


def test_what_stands_in_two_splits_is_refused(corpus, tmp_path, caplog):
    cuts = CutSet.from_file(corpus([0.1] * 4)).to_eager()
    with pytest.raises(DataError, match="id u000 stands in train and again in test"):
        write_splits({"train": cuts, "test": cuts}, tmp_path / "out")
    renamed = CutSet(cut.with_id(cut.id + "x") for cut in cuts)
    with pytest.raises(DataError, match=r"audio file .*000.flac stands in train and again in test"):
        write_splits({"train": cuts, "test": renamed}, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    caplog.set_level(logging.INFO)
    write_splits({"train": cuts, "test": CutSet()}, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["train.jsonl.gz"]
    assert "4 utterances, 2 speakers" in caplog.text
    assert "test: no utterances" in caplog.text


def test_a_missing_part_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere is not a directory: give the directory of the X corpus"):
        require(tmp_path / "nowhere", "etc", name="X")
    (tmp_path / "etc").mkdir()
    with pytest.raises(DataError, match=r"is not the X corpus: wav is missing in it \(expected etc, wav\)"):
        require(tmp_path, "etc", "wav", name="X")


def test_the_command_line_passes_options_and_ends_in_one_line(tmp_path, capsys):
    calls = []

    def prepare(corpus, out, *, table=None, skip_bad=False):
        """Says what it does."""
        calls.append((corpus, out, table, skip_bad))
        if skip_bad:
            raise DataError("this went wrong")

    command_line(prepare, arguments=["a", "b", "--table", "c"])
    assert [str(x) for x in calls[0]] == ["a", "b", "c", "False"]
    with pytest.raises(SystemExit, match="this went wrong"):
        command_line(prepare, arguments=["a", "b", "--skip-bad"])
    with pytest.raises(SystemExit):
        command_line(prepare, arguments=["--help"])
    assert "Says what it does." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("A T-rex, 2 cats!", "A T REX TWO CATS"),
        ("“I don’t know,” he said", "I DON'T KNOW HE SAID"),
        ("'Go' to the cat's slit", "GO TO THE CAT'S SLIT"),
        ("1000", "ONE THOUSAND"),
        ("page3of12", "PAGE THREE OF TWELVE"),
        (" -- ' ", ""),
    ],
)
def test_letters_only(text, normal):
    assert letters_only(text) == normal
    assert letters_only(normal) == normal


@pytest.mark.parametrize("text", ["naïve", "日本", "call 123456789"])
def test_what_has_no_normal_form_is_refused(text):
    with pytest.raises(ValueError):
        letters_only(text)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (20, "twenty"),
        (42, "forty two"),
        (100, "one hundred"),
        (1205, "one thousand two hundred five"),
        (999_999, "nine hundred ninety nine thousand nine hundred ninety nine"),
    ],
)
def test_number_words(number, words):
    assert number_words(number) == words


def test_numbers_out_of_range():
    for number in (-1, 1_000_000):
        with pytest.raises(ValueError, match="not between"):
            number_words(number)
