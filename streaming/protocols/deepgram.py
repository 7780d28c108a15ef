"""Deepgram's live protocol, version 1, of July 2026 (deepgram-python-sdk, `listen/v1`). Path `/v1/listen`.

    GET /v1/listen?encoding=linear16&sample_rate=16000&interim_results=true
    client  <binary>  audio
    server  {"type": "Results", "is_final": false, "speech_final": false, "channel": {"alternatives": [...]}, ...}
    client  {"type": "KeepAlive"}, {"type": "Finalize"}, {"type": "CloseStream"}
    server  {"type": "Metadata", ...}, close frame

Fields of the query:

    encoding           linear16, linear32 (floats), mulaw, alaw, opus and ogg-opus (Opus in Ogg); none: Ogg or WebM
    sample_rate        in Hz; needed with an encoding other than Opus
    channels           1 to 8, mixed to one; multichannel is refused
    interim_results    default false
    endpointing        milliseconds of silence that end speech, from 100: by voice, if the server has a detector;
                       false for never; default: the server's
    utterance_end_ms   UtteranceEnd after such a pause, by the times of words
    vad_events         SpeechStarted with the first word
    keyterm, keywords  again and again: phrases to be recognised more readily; weights above 0 are passed over
    model, language    one of the server's, if it has it

All others (punctuate, smart_format, diarize, callback ...) are ignored. `Finalize` brings what has been heard so far,
the last message with `from_finalize`, and recognition begins anew; an empty binary message is a CloseStream;
`Configure` is answered with ConfigureFailure. `sha256` in Metadata stays empty. A query that will not do is answered
with HTTP 400 and `err_code`, `err_msg`; a message, with `{"type": "Error"}` and a close frame.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast
from urllib.parse import parse_qs

from asr.audio import RATES
from asr.transcript import Word
from streaming.endpoint import Rules
from streaming.events import Encoding, Ended, Event, Failed, Final, Heard, Options, Partial
from streaming.protocols import (
    ENDINGS,
    Action,
    Audio,
    Close,
    Dialect,
    Finish,
    Offer,
    QueryError,
    Send,
    Start,
    close_reason,
    parse_object,
    phrases,
    shown,
    to_json,
)

__all__ = ["Deepgram"]

_ENCODINGS = {
    "linear16": "s16le",
    "linear32": "f32le",
    "mulaw": "mulaw",
    "alaw": "alaw",
    "opus": "container",
    "ogg-opus": "container",
}


class Deepgram(Dialect):
    """One connection. See `streaming.protocols.Dialect`. Raises QueryError."""

    def __init__(self, offer: Offer, query: str = "") -> None:
        self._offer = offer
        self._request = secrets.token_hex(16)
        fields = self._fields(query)
        self._options = self._parse(fields)
        self._pause = self._integer(fields, "utterance_end_ms", 100, 60_000)
        self._vad_events = self._boolean(fields, "vad_events")
        self.wants_heard = self._pause is not None
        self._finished = False
        self._finalized = 0  # sessions ended by Finalize and not over yet
        self._before = 0.0  # seconds of the sessions that are over
        self._start = 0.0  # where the running segment began
        self._speaking = False
        self._last_word: float | None = None  # its end, until UtteranceEnd was sent

    def open(self) -> list[Action]:
        return [Start(self._options)]

    def receive(self, message: str | bytes) -> list[Action]:
        if self._finished:
            return []
        if isinstance(message, bytes) and message:
            return [Audio(message)]
        request = parse_object(message) if isinstance(message, str) else {"type": "CloseStream"}
        match None if request is None else request.get("type"):
            case "KeepAlive":
                return []
            case "Configure":
                refusal = {
                    "code": "CONFIGURE_KEYTERMS_NOT_SUPPORTED",
                    "description": "keyterms are not supported",
                }
                return [Send(to_json({"type": "ConfigureFailure", "request_id": self._request} | refusal))]
            case "Finalize":
                self._finalized += 1
                return [Finish(more=True), Start(self._options)]
            case "CloseStream":
                self._finished = True
                return [Finish()]
            case kind:
                return _error(
                    f"unknown message type {shown(kind)}; known: KeepAlive, Finalize, CloseStream, Configure; "
                    "audio goes in binary messages"
                )

    def send(self, events: Sequence[Event], *, lag: float = 0.0) -> list[str]:
        messages: list[dict[str, Any]] = []
        for event in events:
            match event:
                case Partial() | Final():
                    if self._vad_events and not self._speaking:
                        messages.append(
                            self._event("SpeechStarted", timestamp=self._at(event.words[0].start))
                        )
                    messages.append(self._results(event))
                    self._speaking = isinstance(event, Partial)
                    self._last_word = self._at(event.words[-1].end)
                case Heard():
                    messages += self._utterance_end(self._at(event.seconds))
                case Ended():
                    messages += self._ended(event, messages)
                case Failed():
                    messages.append(_error_message(event.message))
        return [to_json(message) for message in messages]

    def bye(self, kind: str, reason: str, *, lag: float = 0.0) -> list[str]:
        if kind not in ENDINGS:
            return []
        return [
            to_json(
                {
                    "type": "Metadata",
                    "transaction_key": "deprecated",
                    "request_id": self._request,
                    "sha256": "",
                    "created": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                    "duration": round(self._before, 4),
                    "channels": 1,
                }
            )
        ]

    # ---- messages out

    def _at(self, seconds: float) -> float:
        return round(self._before + seconds, 3)

    def _event(self, kind: str, **fields: Any) -> dict[str, Any]:
        return {"type": kind, "channel": [0, 1]} | fields

    def _results(self, event: Partial | Final) -> dict[str, Any]:
        end, final = self._at(event.words[-1].end), isinstance(event, Final)
        message = self._message(
            end,
            event.text,
            [self._word(word) for word in event.words],
            confidence=sum(word.confidence for word in event.words) / len(event.words),
        )
        message |= {"is_final": final, "speech_final": isinstance(event, Final) and event.speech_final}
        if final:
            self._start = end
        return message

    def _message(
        self, end: float, text: str, words: list[dict[str, Any]], *, confidence: float
    ) -> dict[str, Any]:
        alternative = {"transcript": text, "confidence": round(confidence, 4), "words": words}
        model = {"name": self._offer.server, "version": "1", "arch": self._offer.server}
        return {
            "type": "Results",
            "channel_index": [0, 1],
            "duration": round(max(0.0, end - self._start), 3),
            "start": self._start,
            "is_final": True,
            "speech_final": False,
            "channel": {"alternatives": [alternative]},
            "metadata": {"request_id": self._request, "model_info": model, "model_uuid": self._request},
            "from_finalize": False,
        }

    def _word(self, word: Word) -> dict[str, Any]:
        return {
            "word": word.text,
            "start": self._at(word.start),
            "end": self._at(word.end),
            "confidence": round(word.confidence, 4),
            "punctuated_word": word.text,
        }

    def _utterance_end(self, now: float) -> list[dict[str, Any]]:
        last = self._last_word
        if self._pause is None or last is None or now - last < self._pause / 1000:
            return []
        self._last_word = None
        return [self._event("UtteranceEnd", last_word_end=last)]

    def _ended(self, event: Ended, said: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        self._before = end = self._at(event.duration)
        if not self._finalized:
            return []
        self._finalized -= 1
        if said and said[-1].get("is_final"):
            said[-1]["from_finalize"] = True
            return []
        self._start, message = end, self._message(end, "", [], confidence=0.0)
        return [message | {"from_finalize": True}]

    # ---- the query

    def _fields(self, query: str) -> dict[str, str]:
        try:
            fields = parse_qs(query, keep_blank_values=True, max_num_fields=200)
        except ValueError as error:
            raise self._bad("the query has too many fields") from error
        terms = [*fields.get("keyterm", []), *map(phrases.weighted, fields.get("keywords", []))]
        if not phrases.good(terms):
            raise self._bad(f"keyterm and keywords must be {phrases.RULE}")
        self._phrases = phrases.tidy(terms)
        return {name: values[0] for name, values in fields.items()}

    def _parse(self, fields: dict[str, str]) -> Options:
        encoding = _ENCODINGS.get(fields.get("encoding", "opus"))
        if encoding is None:
            raise self._bad(f"encoding must be one of {', '.join(_ENCODINGS)}")
        rate = self._integer(fields, "sample_rate", *RATES)
        if rate is None and encoding != "container":
            raise self._bad("sample_rate is needed with this encoding")
        if self._boolean(fields, "multichannel"):
            raise self._bad("multichannel is not offered: connect once for each channel")
        rules = Rules()
        if fields.get("endpointing", "").lower() == "false":
            rules = Rules(silence=None)
        elif fields.get("endpointing", "true").lower() != "true":
            rules = self._offer.pauses((self._integer(fields, "endpointing", 0, 60_000) or 0) / 1000)
        return self._offer.named(fields.get("model"), fields.get("language")).options(
            sample_rate=16_000 if rate is None or encoding == "container" else rate,
            encoding=cast("Encoding", encoding),
            channels=1 if encoding == "container" else self._integer(fields, "channels", 1, 8) or 1,
            partials=self._boolean(fields, "interim_results"),
            endpointing=rules,
            phrases=self._phrases,
        )

    def _integer(self, fields: dict[str, str], name: str, low: int, high: int) -> int | None:
        if name not in fields:
            return None
        text = fields[name]
        if not (text.isascii() and text.isdigit() and len(text) < 10 and low <= int(text) <= high):
            raise self._bad(f"{name} must be a whole number from {low} to {high}")
        return int(text)

    def _boolean(self, fields: dict[str, str], name: str) -> bool:
        value = fields.get(name, "false").lower()
        if value not in ("true", "false"):
            raise self._bad(f"{name} must be true or false")
        return value == "true"

    def _bad(self, message: str) -> QueryError:
        body = {"err_code": "Bad Request", "err_msg": message, "request_id": self._request}
        return QueryError(message, body)


def _error_message(message: str) -> dict[str, Any]:
    return {"type": "Error", "variant": "DATA-0000", "description": message, "message": message}


def _error(message: str) -> list[Action]:
    return [Send(to_json(_error_message(message))), Close(1008, close_reason(message), "bad_message")]
