"""WhisperLive's websocket protocol, of August 2026 (`whisper_live/server.py`, `client.py`). Path `/whisperlive`.

    client  {"uid": "c1a2", "language": "en", "task": "transcribe", "model": "small", "audio_format": "float32", ...}
    server  {"uid": "c1a2", "message": "SERVER_READY", "backend": "faster_whisper"}
    client  <binary>  samples of 16 kHz, mono: float32, or int16 or uint8 as `audio_format` says
    server  {"uid": "c1a2", "segments": [{"start": "0.000", "end": "2.500", "text": " hello", "completed": true}, ...]}
    client  END_OF_AUDIO   in a binary message
    server  {"uid": "c1a2", "segments": [...]}, close frame

Each message repeats the last `send_last_n_segments` (10; at most 50); one that is not `completed` may still change.
`word_timestamps` adds `words`. The backend is named so because its clients keep the text of that one only. `hotwords`
(texts with commas between them) are recognised more readily; `model` or `language` chooses one of the server's models
by its name. With `use_vad`, and if the server has a detector, a segment ends by voice: after `min_silence_duration_ms`
(500) without one above the `threshold` or `onset` (0.5) of `vad_parameters`. `task`, `initial_prompt` and the rest are
ignored. Before the server closes for a limit it sends `DISCONNECT`. Errors: `{"uid", "status": "ERROR", "message"}`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, cast

from streaming.endpoint import Rules
from streaming.events import Encoding, Event, Failed, Final, Partial
from streaming.protocols import (
    ENDINGS,
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

__all__ = ["WhisperLive"]

_FORMATS = {"float32": "f32le", "int16": "s16le", "uint8": "u8"}
_END = b"END_OF_AUDIO"
_SEGMENTS = 50


class WhisperLive(Dialect):
    """One connection. See `streaming.protocols.Dialect`."""

    def __init__(self, offer: Offer, query: str = "") -> None:
        self._offer = offer
        self._uid: str | None = None
        self._words = False
        self._finished = False
        self._segments: deque[dict[str, Any]] = deque(maxlen=10)

    def open(self) -> list[Action]:
        return []

    def receive(self, message: str | bytes) -> list[Action]:
        if self._finished:
            return []
        if self._uid is None:
            return self._start(message)
        if message in (_END, _END.decode()):
            self._finished = True
            return [Finish()]
        if isinstance(message, bytes):
            return [Audio(message)]
        return self._error("after the options only binary messages are expected: audio, or END_OF_AUDIO")

    def send(self, events: Sequence[Event], *, lag: float = 0.0) -> list[str]:
        messages: list[dict[str, Any]] = []
        for event in events:
            match event:
                case Partial():
                    shown_now = deque([*self._segments, self._segment(event)], self._segments.maxlen)
                    messages.append({"segments": list(shown_now)})
                case Final():
                    self._segments.append(self._segment(event))
                    messages.append({"segments": list(self._segments)})
                case Failed():
                    messages.append({"status": "ERROR", "message": event.message})
        return [to_json({"uid": self._uid} | message) for message in messages]

    def bye(self, kind: str, reason: str, *, lag: float = 0.0) -> list[str]:
        if kind == "ended" or kind not in ENDINGS:
            return []
        return [to_json({"uid": self._uid, "message": "DISCONNECT"})]

    def _start(self, message: str | bytes) -> list[Action]:
        request = parse_object(message) if isinstance(message, str) else None
        if request is None:
            return self._error("the first message must be a JSON object with uid and options")
        uid = request.get("uid")
        if not isinstance(uid, str) or len(uid) > 200:
            return self._error(f"uid is {shown(uid)}; it must be a text of at most 200 characters")
        count = request.get("send_last_n_segments", 10)
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            return self._error(f"send_last_n_segments is {shown(count)}; it must be a number from 1")
        encoding = _FORMATS.get(str(request.get("audio_format", "float32")))
        if encoding is None:
            return self._error(f"audio_format must be one of {', '.join(_FORMATS)}")
        words = request.get("hotwords") or ""
        words = phrases.listed(words) if isinstance(words, str) else words
        if not phrases.good(words):
            return self._error(f"hotwords must be texts with commas between them, or {phrases.RULE}")
        rules = self._rules(request)
        if rules is None:
            return self._error("vad_parameters: min_silence_duration_ms and threshold must be numbers from 0")
        self._uid = uid
        self._words = bool(request.get("word_timestamps", False))
        self._segments = deque(maxlen=min(count, _SEGMENTS))
        offer = self._offer.named(request.get("model"), request.get("language"))
        options = offer.options(
            encoding=cast("Encoding", encoding), endpointing=rules, phrases=phrases.tidy(words)
        )
        ready: dict[str, Any] = {"uid": uid, "message": "SERVER_READY", "backend": "faster_whisper"}
        return [Start(options), Send(to_json(ready))]

    def _rules(self, request: dict[str, Any]) -> Rules | None:
        """`None`: what is asked for is no rule."""
        if not request.get("use_vad") or not self._offer.voice:
            return Rules()
        given = request.get("vad_parameters") or {}
        if not isinstance(given, dict):
            return None
        silence: Any = given.get("min_silence_duration_ms", 500)
        threshold: Any = given.get("threshold", given.get("onset", 0.5))
        for number in (silence, threshold):
            if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number < 1e9:
                return None
        return self._offer.pauses(silence / 1000, threshold=threshold)

    def _segment(self, event: Partial | Final) -> dict[str, Any]:
        start, end = event.words[0].start, event.words[-1].end
        segment: dict[str, Any] = {
            "start": f"{start:.3f}",
            "end": f"{end:.3f}",
            "text": f" {event.text}",
            "completed": isinstance(event, Final),
        }
        if self._words:
            segment["words"] = [
                {
                    "word": f" {word.text}",
                    "start": f"{word.start:.3f}",
                    "end": f"{word.end:.3f}",
                    "probability": round(word.confidence, 4),
                }
                for word in event.words
            ]
        return segment

    def _error(self, message: str) -> list[Action]:
        return [
            Send(to_json({"uid": self._uid, "status": "ERROR", "message": message})),
            Close(1008, close_reason(message), "bad_message"),
        ]
