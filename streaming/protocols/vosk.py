"""Vosk's websocket protocol, as vosk-server of May 2025 speaks it (`websocket/asr_server.py`). Path `/vosk`.

    client  {"config": {"sample_rate": 16000, "words": 1, "max_alternatives": 0}}      may be left out
    client  <binary>  16-bit little-endian samples, mono, of 8 kHz unless configured
    server  {"partial": "one zero"}                           exactly one answer to each binary message
    server  {"result": [{"conf", "start", "end", "word"}], "text": "one zero"}         that answer after a pause
    client  {"eof": 1}
    server  {"result": [...], "text": ...}, close frame

An answer is what is known when the audio comes: it does not wait for that audio to be recognised, so the words
follow by a message or two, and the last answer holds all that had not been told. `{"reset": 1}` brings that last
answer and the next audio begins anew. `phrase_list` holds phrases to be recognised more readily; others are heard, too.
`model` may name one of the server's models, never a path; there are no speaker vectors. Of `max_alternatives` there is
one. The protocol knows no errors: the close frame's reason names the remedy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asr.audio import RATES
from asr.text import join_words
from streaming.events import Ended, Event, Final, Partial
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

__all__ = ["Vosk"]

_UNKNOWN = "[unk]"  # in a grammar: all that is not listed


class Vosk(Dialect):
    """One connection. See `streaming.protocols.Dialect`."""

    def __init__(self, offer: Offer, query: str = "") -> None:
        self._offer = offer
        self._rate = 8000
        self._phrases: list[str] = []
        self._words = True
        self._alternatives = False
        self._open = self._finished = False
        self._partial = ""
        self._finals: list[Final] = []  # not told yet

    def open(self) -> list[Action]:
        return []

    def receive(self, message: str | bytes) -> list[Action]:
        if self._finished:
            return [
                _close(1008, "after_end", "a message came after eof: open a new connection for more audio")
            ]
        if isinstance(message, bytes):
            return [*self._start(), Audio(message), Send(self._answer())]
        request = parse_object(message)
        match request:
            case {"eof": _}:
                self._finished = True
                return [*self._start(), Finish()]
            case {"reset": _}:
                start, self._open = self._start(), False
                return [*start, Finish(more=True)]
            case {"config": dict(config)}:
                return self._configure(config)
        return [
            _close(1007, "bad_text", 'expected {"config": {...}}, {"eof": 1}, {"reset": 1}, or binary audio')
        ]

    def send(self, events: Sequence[Event], *, lag: float = 0.0) -> list[str]:
        messages = []
        for event in events:
            match event:
                case Partial():
                    self._partial = event.text
                case Final():
                    self._finals.append(event)
                    self._partial = ""
                case Ended():
                    messages.append(self._result())
        return messages

    def _configure(self, config: dict[str, Any]) -> list[Action]:
        rate = config.get("sample_rate", self._rate)
        if not (isinstance(rate, int | float) and RATES[0] <= rate <= RATES[1]):
            return [_close(1008, "bad_field", f"sample_rate {shown(rate)}: from {RATES[0]} to {RATES[1]} Hz")]
        listed = config.get("phrase_list", self._phrases)
        if not phrases.good(listed):
            return [_close(1008, "bad_field", f"phrase_list must be {phrases.RULE}")]
        self._rate, self._phrases = round(rate), [x for x in listed if x != _UNKNOWN]
        self._offer = self._offer.named(config.get("model"))
        self._words = bool(config.get("words", self._words))
        self._alternatives = bool(config.get("max_alternatives", self._alternatives))
        return []

    def _start(self) -> list[Action]:
        if self._open:
            return []
        self._open = True
        options = self._offer.options(sample_rate=self._rate, phrases=phrases.tidy(self._phrases))
        return [Start(options)]

    def _answer(self) -> str:
        return self._result() if self._finals else to_json({"partial": self._partial})

    def _result(self) -> str:
        finals, self._finals = self._finals, []
        self._partial = ""
        words = [
            {
                "conf": round(w.confidence, 6),
                "end": round(w.end, 2),
                "start": round(w.start, 2),
                "word": w.text,
            }
            for final in finals
            for w in final.words
        ]
        result: dict[str, Any] = {"text": join_words(final.text for final in finals)}
        if words and self._words:
            result = {"result": words} | result
        if self._alternatives:
            for word in words:
                del word["conf"]
            result = {"alternatives": [{"confidence": 1.0} | result]}
        return to_json(result)


def _close(code: int, kind: str, reason: str) -> Close:
    return Close(code, close_reason(reason), kind)
