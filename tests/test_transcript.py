"""Transcripts as files: round trips, and subtitles that every player takes."""

from __future__ import annotations

import html
import json
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.errors import DataError
from asr.text import IDEOGRAPH
from asr.transcript import CAPTION_LINE, CAPTION_LINES, CAPTION_PAUSE, CAPTION_SECONDS, Transcript, Word

TIMED = re.compile(r"(\d{2,}):([0-5]\d):([0-5]\d)[.,](\d{3}) --> (\d{2,}):([0-5]\d):([0-5]\d)[.,](\d{3})")


@st.composite
def transcripts(draw: st.DrawFn, pauses: float = 2.0) -> Transcript:
    letters = st.characters(exclude_categories=["Z", "C"]).filter(lambda c: not re.match(IDEOGRAPH, c))
    texts = st.text(letters, min_size=1, max_size=12)
    time = draw(st.floats(0, 2 * 3600))
    words = []
    for text in draw(st.lists(texts, max_size=40)):
        start = time + draw(st.floats(0, pauses))
        time = start + draw(st.floats(0, 1.5))
        words.append(Word(text, start, time, draw(st.floats(0, 1))))
    return Transcript(tuple(words), time + draw(st.floats(0, 3)))


def cues(file: str) -> list[tuple[float, float, list[str]]]:
    """(start, end, lines) of an SRT or VTT file."""
    found = []
    for block in filter(None, file.strip().split("\n\n")):
        lines = block.split("\n")
        if lines[0] == "WEBVTT":
            assert len(lines) == 1
            continue
        if "-->" not in lines[0]:
            assert lines.pop(0) == str(len(found) + 1)
        match = TIMED.fullmatch(lines[0])
        assert match, lines[0]
        h, m, s, ms, h2, m2, s2, ms2 = map(int, match.groups())
        found.append((3600 * h + 60 * m + s + ms / 1000, 3600 * h2 + 60 * m2 + s2 + ms2 / 1000, lines[1:]))
    return found


HELLO = Transcript((Word("hello", 0.2, 0.5, 0.9), Word("wörld", 0.52, 1.0, 0.75)), 1.5)


def test_text_and_json() -> None:
    assert HELLO.text == "hello wörld"
    assert HELLO.to_txt() == "hello wörld\n"
    assert json.loads(HELLO.to_json()) == {
        "text": "hello wörld",
        "duration": 1.5,
        "words": [
            {"text": "hello", "start": 0.2, "end": 0.5, "confidence": 0.9},
            {"text": "wörld", "start": 0.52, "end": 1.0, "confidence": 0.75},
        ],
    }
    assert "wörld" in HELLO.to_json()


@given(transcripts())
def test_json_round_trip(transcript: Transcript) -> None:
    assert Transcript.from_json(transcript.to_json()) == transcript


def test_whole_numbers_are_times_too() -> None:
    text = '{"duration": 2, "words": [{"text": "a", "start": 0, "end": 1, "confidence": 1}]}'
    assert Transcript.from_json(text) == Transcript((Word("a", 0.0, 1.0, 1.0),), 2.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "not JSON"),
        ("[]", "no 'words'"),
        ('{"words": []}', "no 'duration'"),
        ('{"words": {}, "duration": 1}', "'words' is {}, not a list"),
        ('{"words": [1], "duration": 1}', r"words\[0\]: no 'start'"),
        (
            '{"words": [{"text": "a", "start": "0", "end": 1, "confidence": 1}], "duration": 1}',
            r"words\[0\]: 'start'",
        ),
        (
            '{"words": [{"text": "a", "start": true, "end": 1, "confidence": 1}], "duration": 1}',
            r"words\[0\]: 'start'",
        ),
        (
            '{"words": [{"text": 1, "start": 0, "end": 1, "confidence": 1}], "duration": 1}',
            "'text' is 1, not a str",
        ),
    ],
)
def test_json_of_another_shape_is_refused(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Transcript.from_json(text)


def test_subtitles_as_they_look() -> None:
    transcript = Transcript(
        (Word("<i>", 3599.0, 3599.9, 1.0), Word("&", 3599.9, 3600.0, 1.0), Word("-->", 3601.0, 3661.5, 1.0)),
        3662.0,
    )
    assert transcript.to_srt() == (
        "1\n00:59:59,000 --> 01:00:00,000\n<i> &\n\n2\n01:00:01,000 --> 01:01:01,500\n->\n\n"
    )
    assert transcript.to_vtt() == (
        "WEBVTT\n\n00:59:59.000 --> 01:00:00.000\n&lt;i&gt; &amp;\n\n01:00:01.000 --> 01:01:01.500\n--&gt;\n"
    )


def test_empty_transcript() -> None:
    empty = Transcript((), 3.0)
    assert (empty.text, empty.to_txt(), empty.to_srt(), empty.to_vtt()) == ("", "\n", "", "WEBVTT\n")
    assert Transcript.from_json(empty.to_json()) == empty


def test_times_carry() -> None:
    assert "00:00:59,999 --> 00:01:00,999" in Transcript((Word("a", 59.9994, 60, 1),), 90).to_srt()
    assert "01:00:00,000 -->" in Transcript((Word("a", 3599.9996, 3601, 1),), 3700).to_srt()
    assert "100:00:00.000 -->" in Transcript((Word("a", 360_000, 360_001, 1),), 360_002).to_vtt()


@given(transcripts())
def test_subtitles_are_sound(transcript: Transcript) -> None:
    for file in (transcript.to_srt(), html.unescape(transcript.to_vtt())):
        shown = cues(file)
        previous = 0.0
        for start, end, lines in shown:
            assert previous <= start < end
            assert lines and all(line.strip() for line in lines)
            assert len(lines) <= CAPTION_LINES
            assert all(len(line) <= CAPTION_LINE for line in lines)
            previous = end
        text = " ".join(line for _, _, lines in shown for line in lines)
        assert text == transcript.text.replace("-->", "->" if "WEBVTT" not in file else "-->")


def test_captions_of_a_language_without_spaces() -> None:
    words = tuple(Word(c, 0.1 * i, 0.1 * i + 0.1, 1.0) for i, c in enumerate("我" * 50))
    shown = cues(Transcript(words, 6.0).to_srt())
    assert "".join(line for _, _, lines in shown for line in lines) == "我" * 50
    assert all(len(line) <= CAPTION_LINE for _, _, lines in shown for line in lines)


@given(transcripts())
def test_captions_break_at_pauses_and_stay_short(transcript: Transcript) -> None:
    shown = cues(transcript.to_vtt())
    words = iter(transcript.words)
    for _, _, lines in shown:
        group = [next(words) for _ in " ".join(lines).split()]
        assert len(group) == 1 or group[-1].end - group[0].start <= CAPTION_SECONDS
        for left, right in pairwise(group):
            assert right.start - left.end <= CAPTION_PAUSE
    assert next(words, None) is None


@given(transcripts(pauses=0.1))
def test_captions_are_not_cut_without_need(transcript: Transcript) -> None:
    """Two neighbours could not have been one."""
    shown = cues(transcript.to_vtt())
    starts = []
    words = iter(transcript.words)
    for _, _, lines in shown:
        starts.append([next(words) for _ in " ".join(lines).split()])
    for left, right in pairwise(starts):
        text = " ".join(word.text for word in [*left, right[0]])
        assert len(text) > CAPTION_LINE or right[0].end - left[0].start > CAPTION_SECONDS


def test_words_at_one_instant_still_have_captions() -> None:
    """The model may put several words on the last frame."""
    words = tuple(Word("x" * 40, 5.0, 5.0, 1.0) for _ in range(7))
    shown = cues(Transcript(words, 5.0).to_srt())
    assert [len(lines) for _, _, lines in shown] == [2, 2, 2, 1]
    assert all(start < end for start, end, _ in shown)


def test_a_long_word_is_wrapped_not_lost() -> None:
    shown = cues(Transcript((Word("a" * 100, 0.0, 1.0, 1.0), Word("b", 1.0, 1.2, 1.0)), 2.0).to_vtt())
    assert [lines for _, _, lines in shown] == [["a" * 42, "a" * 42, "a" * 16], ["b"]]


def test_a_short_caption_stays_for_a_while() -> None:
    words = (Word("yes", 1.0, 1.1, 1.0), Word("no", 4.0, 4.1, 1.0), Word("so", 4.9, 5.0, 1.0))
    assert cues(Transcript(words, 5.5).to_vtt())[0][:2] == (1.0, 2.0)
    assert [(a, b) for a, b, _ in cues(Transcript(words[:2], 4.6).to_vtt())] == [(1.0, 2.0), (4.0, 4.6)]
    close = (Word("yes", 1.0, 1.1, 1.0), Word("no", 1.95, 2.0, 1.0))
    assert [(a, b) for a, b, _ in cues(Transcript(close, 9).to_vtt())] == [(1.0, 1.95), (1.95, 2.95)]


def test_words_without_text_make_no_caption() -> None:
    assert Transcript((Word("", 0.0, 1.0, 1.0), Word(" ", 1.0, 1.5, 1.0)), 2.0).to_srt() == ""
