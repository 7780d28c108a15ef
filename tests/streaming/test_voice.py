"""Endpointing by voice: the detector by itself on a real recording, and what a session makes of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streaming.session
from asr import audio
from asr.errors import ConfigError
from asr.transcript import Word
from streaming import voice
from streaming.endpoint import Endpointer, Rules
from streaming.events import Final, Options
from streaming.protocols import Limits, Offer, Start, Update
from streaming.protocols.deepgram import Deepgram
from streaming.protocols.native import Native
from streaming.protocols.openai import OpenAI
from streaming.protocols.whisperlive import WhisperLive
from streaming.session import run
from streaming.voice import WINDOW, Voice
from tests.streaming.toy_engine import ToyEngine, packets, s16le, silence, speech

NEEDED = pytest.mark.skipif(not voice.available(), reason="silero-vad is not installed")


class Loud(Voice):
    """Hears whatever is loud."""

    def __init__(self, begin: int = 0, *, threshold: float = 0.5) -> None:
        self.threshold = threshold
        self._at, self._voiced = begin // WINDOW * WINDOW, []
        self._heard = np.zeros(0, np.float32)

    def push(self, samples: np.ndarray) -> None:
        self._heard = np.concatenate([self._heard, samples])
        while len(self._heard) >= WINDOW:
            self._at += WINDOW
            if np.abs(self._heard[:WINDOW]).max() > 0.01:
                self._voiced.append(self._at)
            self._heard = self._heard[WINDOW:]


@pytest.fixture(scope="module")
def recording() -> np.ndarray:
    folder = Path(__file__).parents[2] / "data" / "mini" / "audio"
    return audio.read(min(folder.rglob("*.*")))


@NEEDED
def test_silero_hears_a_recording_however_it_is_cut(recording: np.ndarray) -> None:
    sound = np.concatenate([silence(2), recording, silence(2)])
    whole, pieces = Voice(), Voice()
    whole.push(sound)
    for begin in range(0, len(sound), 997):
        pieces.push(sound[begin : begin + 997])
    assert pieces._voiced == whole._voiced and len(whole._voiced) > 10
    assert all(32_000 < at < 32_000 + len(recording) for at in whole._voiced)
    assert whole.quiet(0, 31_000) == 31_000
    assert whole.quiet(0, len(sound)) >= 31_000


def test_the_longest_stretch_without_a_voice() -> None:
    detector = Loud()
    detector.push(np.repeat(np.array([0, 1, 0, 0, 0, 1, 0], np.float32), WINDOW))
    assert detector._voiced == [2 * WINDOW, 6 * WINDOW]
    assert detector.quiet(0, 7 * WINDOW) == 3 * WINDOW
    assert detector.quiet(3 * WINDOW, 7 * WINDOW) == 2 * WINDOW
    assert detector.quiet(0, 3 * WINDOW) == WINDOW
    assert detector.quiet(6 * WINDOW, 7 * WINDOW) == WINDOW


def test_the_rule_by_frame() -> None:
    endpointer = Endpointer(Rules(silence=None, voice=0.2), frame_seconds=0.04)
    assert endpointer.after is None and endpointer.check(20, quiet=20) is None
    endpointer.emitted(20)
    assert endpointer.after == 21
    assert endpointer.check(40, quiet=4) is None and endpointer.check(40, quiet=5) == "silence"
    with pytest.raises(ValueError, match=r"endpointing\.voice is 0\.01 s; it must be from 0\.1"):
        Rules(voice=0.01)


@pytest.mark.parametrize("latency", [160, 640])
def test_a_word_that_is_drawn_out_is_not_cut_and_a_pause_is(
    latency: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One second of one word; then one without a voice; whatever a step brings."""
    monkeypatch.setattr(streaming.session, "Voice", Loud)
    sound = np.concatenate([speech(1, frames=25), speech(2, frames=3), silence(0.6), speech(3, frames=4)])
    texts = {}
    for name, rules in (("silence", Rules(silence=0.4)), ("voice", Rules(voice=0.4))):
        options = Options(latency_ms=latency, endpointing=rules)
        found = run(ToyEngine(), options, packets(s16le(sound), 1700))
        texts[name] = [x.text for x in found if isinstance(x, Final)]
    assert texts == {"silence": ["one", "two", "three"], "voice": ["one two", "three"]}


@NEEDED
def test_what_is_recognised_does_not_depend_on_it(recording: np.ndarray) -> None:
    sound = np.concatenate([speech(1, 2, frames=4), recording, speech(3, frames=4), silence(1)])

    def said(rules: Rules) -> list[Any]:
        events = run(ToyEngine(), Options(latency_ms=320, endpointing=rules), [s16le(sound * 0.9)])
        return [token for event in events if isinstance(event, Final) for token in event.tokens]

    assert said(Rules(voice=0.2)) == said(Rules()) != []


OFFER = Offer(
    server="x", latencies=(320,), heads=("ctc",), default_latency=320, default_head="ctc", limits=Limits()
)
ABLE = replace(OFFER, voice=True)


def test_a_server_without_a_detector_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    start = json.dumps({"type": "start", "endpointing": {"voice": 0.4}})
    refused = Native(OFFER).receive(start)[0]
    assert "no voice activity detector" in refused.message  # type: ignore[union-attr]
    started = Native(ABLE).receive(start)[0]
    assert isinstance(started, Start) and started.options.endpointing.voice == 0.4
    monkeypatch.setattr(voice, "available", lambda: False)
    voice._session.cache_clear()
    with pytest.raises(ConfigError, match=r"pip install 'rill-asr\[vad\]'"):
        Voice()


@NEEDED
def test_a_higher_threshold_hears_less_and_may_change_while_a_stream_runs(recording: np.ndarray) -> None:
    usual, strict = Voice(), Voice(threshold=0.95)
    usual.push(recording)
    strict.push(recording)
    assert set(strict._voiced) < set(usual._voiced)
    session = streaming.session.Session(ToyEngine(), Options(endpointing=Rules(voice=0.4)))
    session.update(Options(endpointing=Rules(voice=0.4, threshold=0.8)))
    assert session._voice is not None and session._voice.threshold == 0.8
    session.update(Options())
    assert session._voice is None
    with pytest.raises(ValueError, match=r"endpointing\.threshold is 1; it must be from 0\.05 to 0\.95"):
        Rules(threshold=1)


def openai(offer: Offer, turns: dict[str, Any] | None) -> OpenAI:
    dialect = OpenAI(offer)
    session = (
        {} if turns is None else {"audio": {"input": {"turn_detection": {"type": "server_vad"} | turns}}}
    )
    dialect.receive(json.dumps({"type": "session.update", "session": session}))
    return dialect


def chosen(actions: list[Any]) -> Rules:
    (rules,) = [action.options.endpointing for action in actions if isinstance(action, Start | Update)]
    return rules


APPEND = '{"type": "input_audio_buffer.append", "audio": "AAAA"}'


@pytest.mark.parametrize(
    ("actions", "wanted"),
    [
        (lambda x: Deepgram(x, "endpointing=300").open(), Rules(voice=0.3)),
        (lambda x: Deepgram(x, "endpointing=10").open(), Rules(voice=0.1)),
        (lambda x: Deepgram(x, "endpointing=3000").open(), Rules(voice=3.0, silence=3.0)),
        (lambda x: Deepgram(x, "endpointing=true").open(), Rules()),
        (lambda x: Deepgram(x, "endpointing=false").open(), Rules(silence=None)),
        (lambda x: openai(x, None).receive(APPEND), Rules(voice=0.5)),
        (
            lambda x: openai(x, {"silence_duration_ms": 700, "threshold": 0.7}).receive(APPEND),
            Rules(voice=0.7, threshold=0.7),
        ),
        (lambda x: openai(x, {"silence_duration_ms": None, "threshold": 1}).receive(APPEND), Rules(voice=0.5, threshold=0.95)),
        (lambda x: WhisperLive(x).receive('{"uid": "a", "use_vad": true}'), Rules(voice=0.5)),
        (lambda x: WhisperLive(x).receive('{"uid": "a", "use_vad": false}'), Rules()),
        (
            lambda x: WhisperLive(x).receive(
                '{"uid": "a", "use_vad": true, "vad_parameters": {"min_silence_duration_ms": 800, "onset": 0.6}}'
            ),
            Rules(voice=0.8, threshold=0.6),
        ),
    ],
)  # fmt: skip
def test_other_protocols_choose_it_by_their_own_fields(actions: Any, wanted: Rules) -> None:
    assert chosen(actions(ABLE)) == wanted
    without = chosen(actions(OFFER))  # by words
    assert without.voice is None and without.threshold == 0.5
    assert without.silence in (wanted.voice, wanted.silence)


def test_what_is_no_rule_is_refused() -> None:
    wrong = json.dumps({"uid": "a", "use_vad": True, "vad_parameters": {"threshold": "high"}})
    assert "vad_parameters" in WhisperLive(ABLE).receive(wrong)[0].message  # type: ignore[union-attr]
    for name, value in (("threshold", 2), ("prefix_padding_ms", -1), ("silence_duration_ms", True)):
        event = {"type": "session.update", "session": {"audio": {"input": {"turn_detection": {name: value}}}}}
        (refused,) = OpenAI(ABLE).receive(json.dumps(event))
        error = json.loads(refused.message)["error"]  # type: ignore[union-attr]
        assert error["param"] == f"session.audio.input.turn_detection.{name}"
    refused = Native(ABLE).receive('{"type": "start", "endpointing": {"threshold": null}}')[0]
    assert "must be a number" in refused.message  # type: ignore[union-attr]


def test_openais_speech_begins_before_its_first_word() -> None:
    words = (Word("hello", 1.0, 1.2, 0.9),)
    final = Final(segment=0, text="hello", words=words, tokens=(), start=1.0, end=1.2, speech_final=True)
    for padding, start in ((300, 700), (0, 1000), (2000, 0)):
        dialect = openai(ABLE, {"prefix_padding_ms": padding})
        dialect.receive(APPEND)
        assert json.loads(dialect.send([final])[0])["audio_start_ms"] == start
