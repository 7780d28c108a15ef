"""Rill's own protocol, version 1: JSON text messages and binary audio. Route: `/v1/stream`.

    server  hello     what is offered, and the limits
    client  start     sample rate, encoding, latency ...; every field may be left out
    server  started   the options as resolved
    client  <binary>  audio; or end
    server  phrases_refused                     if some of the phrases cannot be boosted
    server  partial, final                      as words come
    client  end
    server  final ..., bye, close frame         all audio that was sent is in the finals

    server  error, bye, close frame             at any time; `code` is stable, `message` names the remedy

Every message with an example of each field: README.md in this directory. A message that breaks the protocol
ends the session, since audio that follows it cannot be trusted: an odd byte, for one, turns all later samples
into noise.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, fields
from typing import Any, cast

from asr.audio import RATES
from asr.errors import ConfigError, ProtocolError
from asr.search.config import SearchConfig
from asr.transcript import Word
from streaming.endpoint import Rules
from streaming.events import (
    ENCODINGS,
    Encoding,
    Ended,
    Event,
    Failed,
    Final,
    Options,
    Partial,
    PhrasesRefused,
)
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
    shown,
    to_json,
)

__all__ = ["PROTOCOL", "Native"]

PROTOCOL = 1
CHANNELS = (1, 8)
SEARCH = ("kind", "beam", "blank_penalty", "phrase_boost")  # what a client may choose of `SearchConfig`
PHRASES, PHRASE_LENGTH = 2000, 200

_CLOSE_CODES = {"bad_json": 1007, "bad_audio": 1007, "audio_before_start": 1003, "engine": 1011}


class _RefusedError(ProtocolError):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Native(Dialect):
    """One connection. See `streaming.protocols.Dialect`."""

    def __init__(self, offer: Offer, query: str = "") -> None:
        self._offer = offer
        self._options: Options | None = None
        self._finished = False
        self._duration = 0.0

    def open(self) -> list[Action]:
        offer = self._offer
        hello = {
            "type": "hello",
            "protocol": PROTOCOL,
            "server": offer.server,
            "sample_rates": {"min": RATES[0], "max": RATES[1]},
            "channels": {"min": CHANNELS[0], "max": CHANNELS[1]},
            "encodings": list(ENCODINGS),
            "latencies_ms": list(offer.latencies),
            "default_latency_ms": offer.default_latency,
            "heads": list(offer.heads),
            "default_head": offer.default_head,
            "limits": asdict(offer.limits),
        }
        return [Send(to_json(hello))]

    def receive(self, message: str | bytes) -> list[Action]:
        try:
            return self._audio(message) if isinstance(message, bytes) else self._text(message)
        except _RefusedError as error:
            error_message = {"type": "error", "code": error.code, "message": str(error)}
            close = Close(_CLOSE_CODES.get(error.code, 1008), close_reason(str(error)), error.code)
            return [Send(to_json(error_message)), close]

    def send(self, events: Sequence[Event], *, lag: float = 0.0) -> list[str]:
        messages: list[dict[str, Any]] = []
        for event in events:
            match event:
                case Ended():
                    self._duration = event.duration
                case Failed():
                    messages.append({"type": "error", "code": event.code, "message": event.message})
                case PhrasesRefused():
                    refused = [phrase._asdict() for phrase in event.phrases]
                    messages.append({"type": "phrases_refused", "phrases": refused})
                case Partial() | Final():
                    messages.append(_text_message(event, lag))
        return [to_json(message) for message in messages]

    def bye(self, kind: str, reason: str, *, lag: float = 0.0) -> list[str]:
        message = {
            "type": "bye",
            "code": kind,
            "reason": reason,
            "duration": round(self._duration, 3),
            "lag_ms": round(1000 * lag),
            "limits": asdict(self._offer.limits),
        }
        return [to_json(message)]

    # ---- messages in

    def _audio(self, data: bytes) -> list[Action]:
        if self._options is None:
            raise _RefusedError(
                "audio_before_start",
                'audio came before the session was opened: send {"type": "start", "sample_rate": ...} first',
            )
        self._refuse_after_end()
        size = self._options.frame_bytes
        if len(data) % size:
            raise _RefusedError(
                "bad_audio",
                f"{len(data)} bytes are no whole number of samples: {self._options.encoding} of "
                f"{self._options.channels} channel(s) has {size} bytes each; split between samples only",
            )
        return [Audio(data)] if data else []

    def _text(self, text: str) -> list[Action]:
        message = _parse(text)
        kind = message.pop("type", None)
        match kind:
            case "start":
                if self._options is not None:
                    raise _RefusedError("already_started", "start came twice: one connection is one session")
                self._options = _options(message, self._offer)
                return [Start(self._options), Send(to_json(_started(self._options)))]
            case "end":
                if self._options is None:
                    raise _RefusedError(
                        "end_before_start", "end came before start: there is no session to end"
                    )
                self._refuse_after_end()
                _known(message, (), "end")
                self._finished = True
                return [Finish()]
        raise _RefusedError(
            "unknown_type",
            f"unknown message type {shown(kind)}; {_nearest(kind, ('start', 'end'))}; "
            "audio goes in binary messages",
        )

    def _refuse_after_end(self) -> None:
        if self._finished:
            raise _RefusedError("after_end", "a message came after end: open a new connection for more audio")


# ---- start


def _options(message: dict[str, Any], offer: Offer) -> Options:
    known = ("protocol", *(x.name for x in fields(Options)), "phrases")
    _known(message, known, "start")
    _field(
        message,
        "protocol",
        PROTOCOL,
        lambda v: v == PROTOCOL,
        f"{PROTOCOL}, the only version this server speaks",
    )
    low, high = RATES
    latency, head = _field(message, "latency_ms", None, _integer, "a whole number"), message.get("head")
    if latency is not None and latency not in offer.latencies:
        raise _bad("latency_ms", latency, f"one of {', '.join(map(str, offer.latencies))}")
    if head is not None and head not in offer.heads:
        raise _bad("head", head, f"one of {', '.join(offer.heads)}")
    rate = _field(
        message,
        "sample_rate",
        16_000,
        lambda v: _integer(v) and low <= v <= high,
        f"a whole number from {low} to {high} Hz",
    )
    encoding = _field(
        message,
        "encoding",
        "s16le",
        lambda v: isinstance(v, str) and v in ENCODINGS,
        f"one of {', '.join(ENCODINGS)}",
    )
    low, high = CHANNELS
    return Options(
        sample_rate=rate,
        encoding=cast("Encoding", encoding),
        channels=_field(
            message, "channels", 1, lambda v: _integer(v) and low <= v <= high, f"from {low} to {high}"
        ),
        latency_ms=offer.default_latency if latency is None else latency,
        head=offer.default_head if head is None else head,
        partials=_field(message, "partials", True, _boolean, "true or false"),
        words=_field(message, "words", True, _boolean, "true or false"),
        search=_search(message.get("search"), message.get("phrases")),
        endpointing=_rules(message.get("endpointing")),
    )


def _search(value: Any, phrases: Any) -> SearchConfig:
    value = {} if value is None else value
    if not isinstance(value, dict):
        raise _bad("search", value, 'an object such as {"kind": "beam", "beam": 4}')
    _known(value, SEARCH, "search")
    for name, one in value.items():
        if one is not None and not (isinstance(one, str) if name == "kind" else _number(one)):
            raise _bad(f"search.{name}", one, "text" if name == "kind" else "a number")
    if not _integer(value.get("beam") or 0):
        raise _bad("search.beam", value["beam"], "a whole number")
    phrases = [] if phrases is None else phrases
    short = isinstance(phrases, list) and len(phrases) <= PHRASES
    if not short or not all(isinstance(x, str) and len(x) <= PHRASE_LENGTH for x in phrases):
        raise _bad("phrases", phrases, f"a list of up to {PHRASES} texts of up to {PHRASE_LENGTH} characters")
    given = {name: one for name, one in value.items() if one is not None}
    try:
        return SearchConfig(**given, phrases=tuple(phrases))
    except ConfigError as error:
        raise _RefusedError("bad_field", str(error)) from error


def _rules(value: Any) -> Rules:
    if value is None:
        return Rules()
    if not isinstance(value, dict):
        raise _bad("endpointing", value, 'an object such as {"silence": 1.2, "no_text": 2.4, "length": 20}')
    _known(value, tuple(x.name for x in fields(Rules)), "endpointing")
    for name, seconds in value.items():
        if not (_number(seconds) or (seconds is None and name != "length")):
            or_null = "" if name == "length" else ", or null for never"
            raise _bad(f"endpointing.{name}", seconds, f"a number of seconds{or_null}")
    try:
        return Rules(**value)
    except ValueError as error:
        raise _RefusedError("bad_field", str(error)) from error


def _started(options: Options) -> dict[str, Any]:
    search = {name: getattr(options.search, name) for name in SEARCH}
    rest = {"search": search, "phrases": options.search.phrases}
    return {"type": "started", "protocol": PROTOCOL} | asdict(options) | rest


def _known(message: dict[str, Any], known: Sequence[str], where: str) -> None:
    for name in message:
        if name not in known:
            raise _RefusedError(
                "unknown_field", f"unknown field {shown(name)} in {where}; {_nearest(name, known)}"
            )


def _field(
    message: dict[str, Any], name: str, default: Any, good: Callable[[Any], bool], expected: str
) -> Any:
    """The field's value. A missing field and null are both the default."""
    value = message.get(name)
    if value is None:
        return default
    if not good(value):
        raise _bad(name, value, expected)
    return value


def _bad(name: str, value: Any, expected: str) -> _RefusedError:
    return _RefusedError("bad_field", f"{name} is {shown(value)}; it must be {expected}")


def _integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _boolean(value: Any) -> bool:
    return isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9


def _nearest(name: Any, known: Collection[str]) -> str:
    near = difflib.get_close_matches(str(name)[:60], known, n=1, cutoff=0.5)
    if near:
        return f'did you mean "{near[0]}"?'
    return f"known: {', '.join(known)}" if known else "it has no fields"


def _parse(text: str) -> dict[str, Any]:
    message = parse_object(text)
    if message is None:
        raise _RefusedError(
            "bad_json",
            'a text message must be a JSON object such as {"type": "start"} or {"type": "end"}; '
            "audio goes in binary messages",
        )
    return message


# ---- messages out


def _text_message(event: Partial | Final, lag: float) -> dict[str, Any]:
    message: dict[str, Any] = {
        "type": "final" if isinstance(event, Final) else "partial",
        "segment": event.segment,
        "text": event.text,
        "words": [_word(word) for word in event.words],
        "lag_ms": round(1000 * lag),
    }
    if isinstance(event, Final):
        message |= {
            "start": round(event.start, 3),
            "end": round(event.end, 3),
            "speech_final": event.speech_final,
        }
    return message


def _word(word: Word) -> dict[str, Any]:
    return {
        "text": word.text,
        "start": round(word.start, 3),
        "end": round(word.end, 3),
        "confidence": round(word.confidence, 4),
    } | ({"phrase": word.phrase} if word.phrase else {})
