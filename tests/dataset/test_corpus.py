from __future__ import annotations

import dataclasses
import logging

import pytest
from lhotse import CutSet

from asr.dataset.corpus import (
    Utterance,
    audio_files,
    command_line,
    from_kaldi,
    from_table,
    hold_out,
    require,
    speaker_of,
    to_cuts,
    write_splits,
)
from asr.errors import DataError
from asr.text import letters_only, number_words


def test_a_table_becomes_cuts(tone, tmp_path):
    tone("wav/one.flac", 1.25)
    table = tmp_path / "t.tsv"
    table.write_text("path\ttext\tspeaker\nwav/one.flac\tHello you\tanna\n")
    (cut,) = to_cuts(from_table(table), language="de")
    assert (cut.id, cut.duration, speaker_of(cut)) == ("wav-one", 1.25, "anna")
    assert (cut.supervisions[0].text, cut.supervisions[0].language) == ("Hello you", "de")
    assert audio_files(cut) == [str(tmp_path / "wav/one.flac")]


def test_a_table_names_its_faults(tmp_path):
    table = tmp_path / "t.tsv"
    table.write_text("file\ttext\n")
    with pytest.raises(DataError, match=r"t.tsv, line 1: expected a header with the columns path and text"):
        from_table(table)
    table.write_text("path\ttext\na.wav\tA\nb.wav\n")
    with pytest.raises(DataError, match=r"t.tsv, line 3: 1 fields, but the header names 2"):
        from_table(table)
    table.write_text("path\ttext\na.wav\tA\nb.wav")
    assert [utterance.id for utterance in from_table(table, growing=True)] == ["a"]
    table.write_bytes(b"path\ttext\n\xff\xfe\n")
    with pytest.raises(DataError, match="UTF-8"):
        from_table(table)


def test_a_kaldi_directory_becomes_utterances(tmp_path):
    for name, content in {
        "wav.scp": "u1\tWAVE/u1.wav\nu2 WAVE/u2.wav\n",
        "text": "u1\tHELLO  THERE\nu2\n",
        "utt2spk": "u1 s1\nu2 s2\n",
    }.items():
        (tmp_path / name).write_text(content)
    one, two = from_kaldi(tmp_path, root=tmp_path / "root")
    assert (one.id, one.text, one.speaker, one.path) == (
        "u1", "HELLO  THERE", "s1", tmp_path / "root/WAVE/u1.wav",
    )  # fmt: skip
    assert (two.text, two.where) == ("", f"{tmp_path / 'wav.scp'}, line 2")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("wav.scp", "u1 sox u1.wav -t wav - |\n", "line 1: u1 is a piped command"),
        ("wav.scp", "u1 a.wav\nu3 b.wav\n", "line 2: u3 has no line in .*text"),
        ("wav.scp", "u1\n", "line 1: expected two fields"),
        ("text", "u1 A\nu1 B\n", "text, line 2: u1 stands already in line 1"),
        ("segments", "u1 u1 0 1\n", "segments is not read here"),
        ("text", None, "text is missing"),
    ],
)
def test_a_kaldi_directory_names_its_faults(tmp_path, name, content, message):
    (tmp_path / "wav.scp").write_text("u1 a.wav\n")
    (tmp_path / "text").write_text("u1 A\n")
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        from_kaldi(tmp_path)


def test_bad_audio_is_named_with_its_line_or_left_out(tone, tmp_path, caplog):
    good = Utterance(id="a", path=tone("a.wav", 1.0), text="A", speaker="s")
    (tmp_path / "b.wav").write_text("This is text.")
    bad = dataclasses.replace(good, id="b", path=tmp_path / "b.wav", where="t.tsv, line 3")
    gone = dataclasses.replace(good, id="c", path=tmp_path / "c.wav", where="t.tsv, line 4")
    stereo = dataclasses.replace(good, id="d", path=tone("d.wav", 1.0, channels=2))
    with pytest.raises(
        DataError,
        match=r"3 of 4 audio files .*t.tsv, line 3: .*b.wav is not audio.*c.wav is missing.*has 2 channels",
    ):
        to_cuts([good, bad, gone, stereo])
    assert [cut.id for cut in to_cuts([good, bad, gone, stereo], skip_bad=True)] == ["a"]
    assert "left out 3 of 4" in caplog.text


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
