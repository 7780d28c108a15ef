"""Rill's own protocol, version 1: JSON text messages and binary audio. Route: `/v1/stream`.

    server  hello     what is offered, and the limits
    client  start     sample rate, encoding, latency ...; every field may be left out
    server  started   the options as resolved
    client  <binary>  audio; or end
    server  phrases_refused                     if some of the phrases cannot be boosted
    server  partial, final, settled             as words come, or silence
    client  end
    server  final ..., bye, close frame         all audio that was sent is in the finals

    server  error, bye, close frame             at any time; `code` is stable, `message` names the remedy

Every message with an example of each field: README.md in this directory. A message that breaks the protocol
ends the session, since audio that follows it cannot be trusted: an odd byte, for one, turns all later samples
into noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from asr.audio import RATES
from asr.transcript import Word
from streaming.events import (
    ENCODINGS,
    Ended,
    Event,
    Failed,
    Final,
    Options,
    Partial,
    PhrasesRefused,
    Settled,
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
    Update,
    close_reason,
    shown,
    to_json,
)
from streaming.protocols.native_options import (
    CHANNELS,
    NUMBERS,
    PROTOCOL,
    RefusedError,
    changed,
    given,
    known,
    nearest,
    parse,
    resolved,
)

__all__ = ["Native"]

_CLOSE_CODES = {"bad_json": 1007, "bad_audio": 1007, "audio_before_start": 1003, "engine": 1011}
_TYPES = ("start", "update", "end")


class Native(Dialect):
    """One connection. See `streaming.protocols.Dialect`."""

    def __init__(self, offer: Offer, query: str = "") -> None:
        self._offer = offer
        self._options: Options | None = None
        self._finished = False
        self._before = 0.0  # seconds of what was recognised before an update began afresh
        self._segments = 0
        """Of the same; a partial or final counts on from them."""
        self._last = -1

    def open(self) -> list[Action]:
        offer = self._offer
        hello = {
            "type": "hello",
            "protocol": PROTOCOL,
            "server": offer.server,
            "sample_rates": {"min": RATES[0], "max": RATES[1]},
            "channels": {"min": CHANNELS[0], "max": CHANNELS[1]},
            "encodings": list(ENCODINGS),
            **_model(offer),
            "models": [_model(x) for x in (offer, *offer.others)],
            "voice_activity": offer.voice,
            "search": {name: {"min": low, "max": high} for name, (low, high) in NUMBERS.items()},
            "limits": asdict(offer.limits),
        }
        return [Send(to_json(hello))]

    def receive(self, message: str | bytes) -> list[Action]:
        try:
            return self._audio(message) if isinstance(message, bytes) else self._text(message)
        except RefusedError as error:
            error_message = {"type": "error", "code": error.code, "message": str(error)}
            close = Close(_CLOSE_CODES.get(error.code, 1008), close_reason(str(error)), error.code)
            return [Send(to_json(error_message)), close]

    def send(self, events: Sequence[Event], *, lag: float = 0.0) -> list[str]:
        messages: list[dict[str, Any]] = []
        for event in events:
            match event:
                case Ended():
                    self._before += event.duration
                    self._segments += self._last + 1
                    self._last = -1
                case Failed():
                    messages.append({"type": "error", "code": event.code, "message": event.message})
                case PhrasesRefused():
                    refused = [phrase._asdict() for phrase in event.phrases]
                    messages.append({"type": "phrases_refused", "phrases": refused})
                case Partial() | Final():
                    self._last = event.segment
                    messages.append(self._text_message(event, lag))
                case Settled() if settled := self._settled(event):
                    messages.append({"type": "settled"} | settled)
        return [to_json(message) for message in messages]

    def bye(self, kind: str, reason: str, *, lag: float = 0.0) -> list[str]:
        message = {
            "type": "bye",
            "code": kind,
            "reason": reason,
            "duration": round(self._before, 3),
            "lag_ms": round(1000 * lag),
            "limits": asdict(self._offer.limits),
        }
        return [to_json(message)]

    # ---- messages in

    def _audio(self, data: bytes) -> list[Action]:
        if self._options is None:
            raise RefusedError(
                "audio_before_start",
                'audio came before the session was opened: send {"type": "start", "sample_rate": ...} first',
            )
        self._refuse_after_end()
        size = self._options.frame_bytes
        if len(data) % size:
            raise RefusedError(
                "bad_audio",
                f"{len(data)} bytes are no whole number of samples: {self._options.encoding} of "
                f"{self._options.channels} channel(s) has {size} bytes each; split between samples only",
            )
        return [Audio(data)] if data else []

    def _text(self, text: str) -> list[Action]:
        message = parse(text)
        kind = message.pop("type", None)
        match kind:
            case "start":
                if self._options is not None:
                    raise RefusedError("already_started", "start came twice: one connection is one session")
                self._options = given(message, self._offer)
                return [Start(self._options), Send(self._told("started"))]
            case "update":
                if self._options is None:
                    raise RefusedError("update_before_start", "update came before start: send start first")
                self._refuse_after_end()
                self._options, afresh = changed(message, self._options, self._offer)
                told = Send(self._told("updated"))
                if afresh:
                    return [Finish(more=True), Start(self._options), told]
                return [Update(self._options), told]
            case "end":
                if self._options is None:
                    raise RefusedError(
                        "end_before_start", "end came before start: there is no session to end"
                    )
                self._refuse_after_end()
                known(message, (), "end")
                self._finished = True
                return [Finish()]
        raise RefusedError(
            "unknown_type",
            f"unknown message type {shown(kind)}; {nearest(kind, _TYPES)}; audio goes in binary messages",
        )

    def _refuse_after_end(self) -> None:
        if self._finished:
            raise RefusedError("after_end", "a message came after end: open a new connection for more audio")

    # ---- messages out

    def _told(self, kind: str) -> str:
        assert self._options is not None
        return to_json({"type": kind, "protocol": PROTOCOL} | resolved(self._options))

    def _text_message(self, event: Partial | Final, lag: float) -> dict[str, Any]:
        message: dict[str, Any] = {
            "type": "final" if isinstance(event, Final) else "partial",
            "segment": self._segments + event.segment,
            "text": event.text,
            "words": [self._word(word) for word in event.words],
            "lag_ms": round(1000 * lag),
        }
        if isinstance(event, Final):
            message |= {
                "start": self._at(event.start),
                "end": self._at(event.end),
                "speech_final": event.speech_final,
                **self._settled(event),
            }
        return message

    def _word(self, word: Word) -> dict[str, Any]:
        told: dict[str, Any] = {"text": word.text, "start": self._at(word.start), "end": self._at(word.end)}
        if self._options is None or self._options.confidence:
            told["confidence"] = round(word.confidence, 4)
        return told | ({"phrase": word.phrase} if word.phrase else {})

    def _settled(self, event: Final | Settled) -> dict[str, int]:
        """As samples of the client's; in a container nobody counts them."""
        options = self._options
        if options is None or options.encoding == "container":
            return {}
        times = {"settled": event.settled, "resume": event.resume}
        return {name: round((self._before + time) * options.sample_rate) for name, time in times.items()}

    def _at(self, seconds: float) -> float:
        return round(self._before + seconds, 3)


def _model(offer: Offer) -> dict[str, Any]:
    return {
        "model": offer.names[0],
        "latencies_ms": list(offer.latencies),
        "default_latency_ms": offer.default_latency,
        "heads": list(offer.heads),
        "default_head": offer.default_head,
        "searches": offer.searches,
        "language_models": list(offer.language_models),
        "bigrams": list(offer.bigrams),
    }
