"""FunASR's websocket protocol, of August 2026 (`runtime/docs/websocket_protocol.md`, `funasr_wss_server.py`).
Path `/funasr`.

    client  {"mode": "2pass", "wav_name": "h5", "wav_format": "pcm", "audio_fs": 16000, "is_speaking": true, ...}
    client  <binary>  16-bit little-endian samples, mono, of `audio_fs`
    server  {"mode": "2pass-online", "text": "after", "wav_name": "h5", "is_final": false}
    server  {"mode": "2pass-offline", "text": "after early", ..., "timestamp": "[[640,800],...]", "stamp_sents": [...]}
    client  {"is_speaking": false}          more audio may follow: a new recording
    server  the last message, with "is_final": true

Text in mode `online` and `2pass-online` is what is new since the last message, with the space before it; a text in
`2pass-offline` replaces all that of its sentence. Both passes are one model, so the text differs in nothing but its
times. Mode `offline` gets one message at the end, at the largest latency that the model offers. Where the client says
`"is_end": true` with `"is_speaking": false`, an acknowledgement with `is_end` follows the last message. `wav_format`
other than pcm means Opus in Ogg or WebM. `hotwords` (a JSON object of phrases and weights in a text, or words with
spaces between them) are recognised more readily, whatever their weights; `itn`, `chunk_size` and all other fields are
ignored, as are `svs_*`; times are in milliseconds. An error is a message with `is_end` and `error`, then a close frame.
The text commands of `funasr-realtime` (START, STOP) are another protocol, and not spoken.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from asr.audio import RATES
from asr.text import join_words
from asr.transcript import Word
from streaming.events import Ended, Event, Failed, Final, Partial
from streaming.protocols import (
    Action,
    Audio,
    Close,
    Dialect,
    Finish,
    Offer,
    Send,
    Start,
    close_reason,
    parse_object,
    phrases,
    shown,
    to_json,
)
from streaming.protocols.appended import Appended

__all__ = ["FunASR"]

_MODES = ("offline", "online", "2pass")


@dataclass
class _Recording:
    """A session, from its first audio to its last message; the next may have begun to come meanwhile."""

    mode: str
    name: str
    acknowledge: bool = False
    new: Appended = field(default_factory=Appended)
    finals: list[Final] = field(default_factory=list)
    sentences: int = 0

    def message(self, text: str, **fields: Any) -> str:
        return to_json({"mode": self.mode, "text": text, "wav_name": self.name} | fields)


class FunASR(Dialect):
    """One connection. See `streaming.protocols.Dialect`."""

    def __init__(self, offer: Offer, query: str = "") -> None:
        self._offer = offer
        self._configured = self._open = False
        self._mode, self._name, self._rate, self._packed = "2pass", "demo", 16_000, False
        self._phrases: list[str] = []
        self._recordings: deque[_Recording] = deque()

    def open(self) -> list[Action]:
        return []

    def receive(self, message: str | bytes) -> list[Action]:
        if isinstance(message, bytes):
            if not self._configured:
                return self._error("audio came before the configuration: send mode, chunk_size, ... first")
            return [*self._start(), Audio(message)]
        request = parse_object(message)
        if request is None:
            return self._error(
                'a text message must be a JSON object such as {"mode": "2pass", "is_speaking": true}'
            )
        if (problem := self._configure(request)) is not None:
            return self._error(problem)
        if request.get("is_speaking") is not False:
            return []
        acknowledge = request.get("is_end") is True
        if self._open:
            self._open = False
            self._recordings[-1].acknowledge = acknowledge
            return [Finish(more=True)]
        return [Send(self._running().message("", is_final=True, is_end=True))] if acknowledge else []

    def send(self, events: Sequence[Event], *, lag: float = 0.0) -> list[str]:
        messages: list[str] = []
        for event in events:
            recording = self._running()
            match event:
                case Partial():
                    messages += _online(recording, recording.new.partial(event.text))
                case Final() if recording.mode == "online":
                    messages += _online(recording, recording.new.final(event.text))
                case Final() if recording.mode == "2pass":
                    messages.append(_offline(recording, [event], is_final=False))
                    recording.sentences, recording.new = recording.sentences + 1, Appended(space=True)
                case Final():
                    recording.finals.append(event)
                case Ended():
                    messages += _last(recording)
                    self._recordings.popleft()
                case Failed():
                    messages.append(_failed(recording, event.message))
        return messages

    def _running(self) -> _Recording:
        return self._recordings[0] if self._recordings else _Recording(self._mode, self._name)

    def _configure(self, request: dict[str, Any]) -> str | None:
        """Take over what was said; what is wrong with it."""
        mode, rate = request.get("mode", self._mode), request.get("audio_fs", self._rate)
        name, form = request.get("wav_name", self._name), request.get("wav_format")
        if mode not in _MODES:
            return f"mode is {shown(mode)}; it must be one of {', '.join(_MODES)}"
        if isinstance(rate, bool) or not isinstance(rate, int) or not RATES[0] <= rate <= RATES[1]:
            return f"audio_fs is {shown(rate)}; it must be a whole number from {RATES[0]} to {RATES[1]}"
        if not isinstance(name, str) or len(name) > 200:
            return f"wav_name is {shown(name)}; it must be a text of at most 200 characters"
        words = request.get("hotwords", "")
        if not isinstance(words, str) or not phrases.good(listed := phrases.mapped(words)):
            return f"hotwords must be a JSON object in a text, or words: {phrases.RULE}"
        if self._open and (mode, rate) != (self._mode, self._rate):
            return "mode and audio_fs cannot change while is_speaking"
        self._mode, self._rate, self._name = mode, rate, name
        self._phrases = listed if "hotwords" in request else self._phrases
        if form is not None and not self._open:
            self._packed = str(form).lower() != "pcm"
        self._configured = True
        return None

    def _start(self) -> list[Action]:
        if self._open:
            return []
        self._open = True
        self._recordings.append(_Recording(self._mode, self._name))
        offline = self._mode == "offline"
        fields: dict[str, Any] = {"latency_ms": self._offer.latencies[-1]} if offline else {}
        options = self._offer.options(
            sample_rate=self._rate,
            encoding="container" if self._packed else "s16le",
            partials=not offline,
            phrases=phrases.tidy(self._phrases),
            **fields,
        )
        return [Start(options)]

    def _error(self, message: str) -> list[Action]:
        return [
            Send(_failed(self._running(), message)),
            Close(1008, close_reason(message), "bad_message"),
        ]


def _online(recording: _Recording, text: str) -> list[str]:
    mode = "2pass-online" if recording.mode == "2pass" else "online"
    return [recording.message(text, mode=mode, is_final=False)] if text else []


def _offline(recording: _Recording, finals: Sequence[Final], *, is_final: bool) -> str:
    text = join_words(final.text for final in finals)
    return recording.message(
        f" {text}" if recording.sentences else text,
        mode="2pass-offline" if recording.mode == "2pass" else "offline",
        is_final=is_final,
        timestamp=json.dumps(_times([word for final in finals for word in final.words])),
        stamp_sents=[
            {
                "text_seg": final.text,
                "punc": "",
                "start": _ms(final.start),
                "end": _ms(final.end),
                "ts_list": _times(final.words),
            }
            for final in finals
        ],
    )


def _last(recording: _Recording) -> list[str]:
    """The last message of a recording, and its acknowledgement where it was asked for."""
    if recording.mode == "offline":
        messages = [_offline(recording, recording.finals, is_final=True)]
    else:
        mode = "2pass-offline" if recording.mode == "2pass" else "online"
        messages = [recording.message("", mode=mode, is_final=True)]
    if recording.acknowledge:
        messages.append(recording.message("", is_final=True, is_end=True))
    return messages


def _failed(recording: _Recording, message: str) -> str:
    return recording.message("", is_final=False, is_end=True, error=message)


def _times(words: Sequence[Word]) -> list[list[int]]:
    return [[_ms(word.start), _ms(word.end)] for word in words]


def _ms(seconds: float) -> int:
    return round(1000 * seconds)
