"""Endpointing by voice: the detector by itself on a real recording, and what a session makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streaming.session
from asr import audio
from asr.errors import ConfigError
from streaming import voice
from streaming.endpoint import Endpointer, Rules
from streaming.events import Final, Options
from streaming.protocols import Limits, Offer, Start
from streaming.protocols.native import Native
from streaming.session import run
from streaming.voice import WINDOW, Voice
from tests.streaming.toy_engine import ToyEngine, packets, s16le, silence, speech

NEEDED = pytest.mark.skipif(not voice.available(), reason="silero-vad is not installed")


class Loud(Voice):
    """Hears whatever is loud."""

    def __init__(self, begin: int = 0) -> None:
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


def test_a_server_without_a_detector_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    offer = Offer(
        server="x", latencies=(320,), heads=("ctc",), default_latency=320, default_head="ctc", limits=Limits()
    )
    start = json.dumps({"type": "start", "endpointing": {"voice": 0.4}})
    refused = Native(offer).receive(start)[0]
    assert "no voice activity detector" in refused.message  # type: ignore[union-attr]
    able = Offer(**{**vars(offer), "voice": True})
    started = Native(able).receive(start)[0]
    assert isinstance(started, Start) and started.options.endpointing.voice == 0.4
    monkeypatch.setattr(voice, "available", lambda: False)
    voice._session.cache_clear()
    with pytest.raises(ConfigError, match=r"pip install 'rill-asr\[vad\]'"):
        Voice()
