"""Tables, Kaldi directories, folders and Hugging Face datasets, as people have them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile

from asr.dataset.corpus import audio_files, speaker_of, to_cuts
from asr.dataset.cuts import load_audio
from asr.dataset.sources import from_folder, from_hugging_face, from_kaldi, from_table
from asr.errors import DataError


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
    table.write_text("where\ttext\n")
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
        ("segments", "u1 u1 0\n", "segments, line 1: expected UTTERANCE RECORDING START END"),
        ("segments", "u1 u9 0 1\n", "segments, line 1: the recording u9 has no line in .*wav.scp"),
        ("segments", "u7 u1 0 1\n", "segments, line 1: u7 has no line in .*text"),
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


def test_tables_of_other_toolkits(tone, tmp_path):
    tone("a.wav", 3.0)
    nemo = tmp_path / "nemo.json"
    lines = [
        {"audio_filepath": "a.wav", "text": "hello", "duration": 3.004},
        {"audio_filepath": "a.wav", "text": "you", "duration": 1.0, "offset": 1.5},
    ]
    nemo.write_text("".join(json.dumps(line) + "\n" for line in lines))
    whole, part = to_cuts(from_table(nemo))
    assert (whole.id, whole.start, whole.duration) == ("a", 0.0, 3.0)
    assert (part.id, part.start, part.duration) == ("a-2", 1.5, 1.0)
    assert len(load_audio(part)) == 16_000
    wenet = tmp_path / "data.list"
    wenet.write_text(json.dumps({"key": "u1", "wav": str(tmp_path / "a.wav"), "txt": "hello"}) + "\n")
    assert [(u.id, u.text) for u in from_table(wenet)] == [("u1", "hello")]
    quoted = tmp_path / "t.csv"
    quoted.write_text('filename,transcript,client_id,start,end\na.wav,"Hello, ""you""",anna,0.5,2\n')
    (cut,) = to_cuts(from_table(quoted))
    assert (cut.start, cut.duration, speaker_of(cut)) == (0.5, 1.5, "anna")
    assert cut.supervisions[0].text == 'Hello, "you"'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"audio": "a.wav", "text": "x"}\n{"audio"\n', "t.jsonl, line 2: no JSON object"),
        ("[1]\n", "line 1: expected a JSON object"),
        ('{"audio": "a.wav"}\n', r"line 1: expected the keys path and text, found \['audio'\]"),
        ('{"audio": "a.wav", "text": "x", "offset": "soon"}\n', "line 1: start is 'soon', expected seconds"),
    ],
)
def test_a_table_of_json_names_its_faults(tmp_path, content, message):
    (tmp_path / "t.jsonl").write_text(content)
    with pytest.raises(DataError, match=message):
        from_table(tmp_path / "t.jsonl")


def test_a_segment_beyond_its_audio_is_named(tone, tmp_path):
    tone("a.wav", 1.0)
    table = tmp_path / "t.csv"
    table.write_text("path,text,start,end\na.wav,YES,0.5,1.03\na.wav,NO,0.5,2\n")
    with pytest.raises(
        DataError, match=r"t.csv, line 3: .*a.wav lasts 1.00 s, but a-3 is said to go from 0.5 to 2 s"
    ):
        to_cuts(from_table(table))
    (cut,) = to_cuts(from_table(table), skip_bad=True)
    assert (cut.start, cut.duration) == (0.5, 0.5)


def test_a_kaldi_directory_with_segments(tone, tmp_path):
    tone("r.wav", 5.0)
    (tmp_path / "wav.scp").write_text("r r.wav\n")
    (tmp_path / "text").write_text("r-1 ONE\nr-2 TWO\n")
    (tmp_path / "segments").write_text("r-1 r 0.25 1.5\nr-2 r 2 4.75\n")
    one, two = to_cuts(from_kaldi(tmp_path, root=tmp_path))
    assert [(c.id, c.start, c.duration, c.recording.id) for c in (one, two)] == [
        ("r-1", 0.25, 1.25, "r"),
        ("r-2", 2.0, 2.75, "r"),
    ]


def test_several_channels_are_mixed_down(tmp_path):
    left, right = np.full(16_000, 0.25), np.full(16_000, -0.5)
    soundfile.write(tmp_path / "stereo.flac", np.stack([left, right], axis=1), 16_000)
    (tmp_path / "t.tsv").write_text("path\ttext\nstereo.flac\tHELLO\n")
    (cut,) = to_cuts(from_table(tmp_path / "t.tsv"))
    np.testing.assert_allclose(load_audio(cut), -0.125, atol=1e-4)


def test_a_folder_of_audio_and_texts(tone, tmp_path):
    for name, text in (("anna/one", "Hello\nthere"), ("anna/two", "yes"), ("three", "no")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        tone(f"{name}.wav", 1.0)
        (tmp_path / f"{name}.txt").write_text(text)
    cuts = to_cuts(from_folder(tmp_path))
    assert [(c.id, c.supervisions[0].text, speaker_of(c)) for c in cuts] == [
        ("anna-one", "Hello there", "anna"),
        ("anna-two", "yes", "anna"),
        ("three", "no", "unknown"),
    ]
    (tmp_path / "three.txt").unlink()
    with pytest.raises(
        DataError, match=r"1 of 3 audio files have no text .*three.wav among them; write three.txt"
    ):
        from_folder(tmp_path)
    assert len(from_folder(tmp_path, skip_bad=True)) == 2
    with pytest.raises(DataError, match="no audio is in it"):
        from_folder(tmp_path / "nowhere")


def test_a_hugging_face_dataset(tone, tmp_path):
    datasets = pytest.importorskip("datasets", reason="`datasets` is not installed")
    path = tone("a.wav", 1.0)
    features = datasets.Features({"audio": datasets.Audio(), "sentence": datasets.Value("string")})

    def made(rows):  # as one made where torchcodec is there, which only `datasets`' own encoding needs
        text, binary = datasets.Value("string"), datasets.Value("binary")
        plain = datasets.Features({"audio": {"bytes": binary, "path": text}, "sentence": text})
        data = datasets.Dataset.from_dict(rows, features=plain).data
        return datasets.Dataset(data, datasets.DatasetInfo(features=features))

    inside = {"audio": [{"bytes": path.read_bytes(), "path": "clip.wav"}], "sentence": ["inside"]}
    beside = {"audio": [{"bytes": None, "path": str(path)}], "sentence": ["beside"]}
    found = datasets.DatasetDict(
        {
            "train": made(inside),
            "validation": made(beside),
        }
    )
    found.save_to_disk(tmp_path / "set")
    splits = from_hugging_face(tmp_path / "set", tmp_path / "out")
    assert set(splits) == {"train", "validation"}
    (cut,) = to_cuts(splits["train"])
    assert (cut.duration, cut.supervisions[0].text) == (1.0, "inside")
    assert audio_files(cut) == [str(tmp_path / "out/train/00000000-clip.wav")]
    (cut,) = to_cuts(splits["validation"])
    assert audio_files(cut) == [str(tmp_path / "out/validation/00000000-a.wav")]
    with pytest.raises(DataError, match="is no dataset"):
        from_hugging_face(tmp_path, tmp_path / "out")
    datasets.Dataset.from_dict({"words": ["a"]}).save_to_disk(tmp_path / "plain")
    with pytest.raises(DataError, match=r"expected a column of audio and one of text, found \['words'\]"):
        from_hugging_face(tmp_path / "plain", tmp_path / "out")
