"""OpenAI's Realtime API, sessions that transcribe, of August 2026 (openai-openapi, openai-python). Path `/v1/realtime`.

    server  {"type": "session.created", "session": {"type": "transcription", ...}}
    client  {"type": "session.update", "session": {"type": "transcription", "audio": {"input": {...}}}}
    server  {"type": "session.updated", ...}
    client  {"type": "input_audio_buffer.append", "audio": "<base64>"}
    server  input_audio_buffer.speech_started
            conversation.item.input_audio_transcription.delta      as words come
            input_audio_buffer.speech_stopped, input_audio_buffer.committed
            conversation.item.input_audio_transcription.completed
    client  {"type": "input_audio_buffer.commit"}, {"type": "input_audio_buffer.clear"}

Of `audio.input`: `format` (audio/pcm of any rate, audio/pcmu, audio/pcma) and `turn_detection`. With server_vad, an
item is a segment of speech, which ends after `silence_duration_ms` without a voice above `threshold` (without words,
where the server has no detector) or at a commit, and is said to begin `prefix_padding_ms` before its first word; with
null, at a commit only, though its deltas come at once. semantic_vad is taken for server_vad. Deltas only add; where a
long segment is cut, the last one may go beyond `transcript`, which holds. `transcription.model` or `.language` chooses
a model of the server's by its name; other names mean its first. `transcription.keywords`, and what a `prompt` lists
between commas, are recognised more readily. `include` may ask for logprobs, which come with `completed`.
`noise_reduction` is sent back and ignored. The form of the beta (`transcription_session.update`) is spoken, too.

An event that will not do is answered with an `error`, and the session goes on. Audio that cannot be decoded ends it:
`error`, then a close frame.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from asr.audio import RATES
from asr.text import join_words
from streaming.endpoint import Rules
from streaming.events import ENCODINGS, Encoding, Ended, Event, Failed, Final, Partial
from streaming.protocols import (
    Action,
    Audio,
    Dialect,
    Finish,
    Offer,
    Send,
    Start,
    parse_object,
    phrases,
    shown,
    to_json,
)
from streaming.protocols.appended import Appended
from streaming.protocols.openai_rest import log_probabilities

__all__ = ["OpenAI"]

_FORMATS: dict[str, tuple[Encoding, int]] = {
    "audio/pcm": ("s16le", 24_000),
    "audio/pcmu": ("mulaw", 8000),
    "audio/pcma": ("alaw", 8000),
}
_BETA = {"pcm16": "audio/pcm", "g711_ulaw": "audio/pcmu", "g711_alaw": "audio/pcma"}
_TRANSCRIPTION = "conversation.item.input_audio_transcription"
_LOGPROBS = "item.input_audio_transcription.logprobs"
_TURNS = {"threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": 500}
_LONGEST = Rules(silence=None, no_text=None, length=120.0)


class _EventError(Exception):
    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.param = code, param


@dataclass
class _Session:
    """From its first audio to its last event; the next may have begun to come meanwhile."""

    turns: bool
    """Pauses make items."""
    item: str = field(default_factory=lambda: f"item_{secrets.token_hex(10)}")
    said: bool = False
    """The item's speech_started was sent, or a delta of it."""
    finals: list[Final] = field(default_factory=list)
    new: Appended = field(default_factory=Appended)
    committed: bool = False
    cleared: bool = False

    def next_item(self) -> None:
        self.item, self.said, self.finals = f"item_{secrets.token_hex(10)}", False, []
        self.new = Appended()


class OpenAI(Dialect):
    """One connection. See `streaming.protocols.Dialect`."""

    def __init__(self, offer: Offer, query: str = "") -> None:
        self._offer = offer
        self._id = f"sess_{secrets.token_hex(10)}"
        self._input: dict[str, Any] = {
            "format": {"type": "audio/pcm", "rate": 24_000},
            "transcription": {"model": offer.model or offer.server},
            "noise_reduction": None,
            "turn_detection": {"type": "server_vad"} | _TURNS,
        }
        self._include: Any = []
        self._rules = _rules(self._input["turn_detection"], "", offer)
        self._encoding: Encoding = "s16le"
        self._rate = 24_000
        self._rest = b""  # of a sample
        self._open = False
        self._sessions: deque[_Session] = deque()
        self._previous: str | None = None
        self._before = 0.0  # seconds of the sessions that are over
        self._count = 0

    def open(self) -> list[Action]:
        return [Send(self._event("session.created", session=self._session()))]

    def receive(self, message: str | bytes) -> list[Action]:
        request = parse_object(message) if isinstance(message, str) else None
        try:
            if request is None:
                raise _EventError("invalid_json", "a message must be a JSON object in text, with its type")
            return self._receive(request)
        except _EventError as error:
            identity = None if request is None else request.get("event_id")
            identity = identity if isinstance(identity, str) and len(identity) <= 512 else None
            return [Send(self._error(error.code, str(error), error.param, identity))]

    def send(self, events: Sequence[Event], *, lag: float = 0.0) -> list[str]:
        messages: list[str] = []
        for event in events:
            if isinstance(event, Failed):
                messages.append(self._error(event.code, event.message))
            elif self._sessions:
                session = self._sessions[0]
                if not session.cleared:
                    messages += self._tell(session, event)
                if isinstance(event, Ended):
                    self._sessions.popleft()
                    self._before += event.duration
        return messages

    # ---- events in

    def _receive(self, request: dict[str, Any]) -> list[Action]:
        match request.get("type"):
            case "input_audio_buffer.append":
                return self._append(request.get("audio"))
            case "input_audio_buffer.commit":
                if not self._open:
                    raise _EventError(
                        "input_audio_buffer_commit_empty", "the buffer is empty: append audio first"
                    )
                session = self._sessions[-1]
                session.committed = True
                return [Send(self._committed(session)), *self._end()]
            case "input_audio_buffer.clear":
                if self._open:
                    self._sessions[-1].cleared = True
                return [*self._end(), Send(self._event("input_audio_buffer.cleared"))]
            case "session.update":
                self._update(request.get("session"))
                event = self._event("session.updated", session=self._session())
                return [*self._end_turns(), Send(event)]
            case "transcription_session.update":
                self._update_beta(request.get("session"))
                event = self._event("transcription_session.updated", session=self._session_beta())
                return [*self._end_turns(), Send(event)]
            case kind:
                raise _EventError("invalid_value", f"unknown event type {shown(kind)}", "type")

    def _append(self, audio: Any) -> list[Action]:
        if not isinstance(audio, str):
            raise _EventError("invalid_value", "audio must be a text: base64", "audio")
        try:
            data = self._rest + base64.b64decode(audio, validate=True)
        except (binascii.Error, ValueError) as error:
            raise _EventError("invalid_value", "audio is not base64", "audio") from error
        whole = len(data) - len(data) % ENCODINGS[self._encoding]
        self._rest = data[whole:]
        if not whole:
            return []
        if self._open:
            return [Audio(data[:whole])]
        self._open = True
        turns = self._rules is not _LONGEST
        self._sessions.append(_Session(turns))
        asked = self._input["transcription"]
        asked = asked if isinstance(asked, dict) else {}
        options = self._offer.named(asked.get("model"), asked.get("language")).options(
            sample_rate=self._rate, encoding=self._encoding, endpointing=self._rules, phrases=_phrases(asked)
        )
        return [Start(options), Audio(data[:whole])]

    def _end(self) -> list[Action]:
        was_open, self._open, self._rest = self._open, False, b""
        return [Finish(more=True)] if was_open else []

    def _end_turns(self) -> list[Action]:
        """New settings hold from the next session on. What waits for a commit must not be cut by them."""
        return self._end() if self._sessions and self._sessions[-1].turns else []

    def _update(self, session: Any) -> None:
        session = _object(session, "session")
        if session.get("type", "transcription") != "transcription":
            raise _EventError("invalid_value", "this server transcribes only", "session.type")
        given = _object(
            _object(session.get("audio", {}), "session.audio").get("input", {}), "session.audio.input"
        )
        wanted = self._input | {name: given[name] for name in self._input if name in given}
        self._take(wanted, session.get("include", self._include))

    def _update_beta(self, session: Any) -> None:
        session, wanted = _object(session, "session"), dict(self._input)
        if "input_audio_format" in session:
            kind = _BETA.get(str(session["input_audio_format"]))
            if kind is None:
                raise _EventError(
                    "invalid_value", f"must be one of {', '.join(_BETA)}", "session.input_audio_format"
                )
            wanted["format"] = {"type": kind}
        for name, old in (
            ("transcription", "input_audio_transcription"),
            ("turn_detection", "turn_detection"),
        ):
            if old in session:
                wanted[name] = session[old]
        self._take(wanted, session.get("include", self._include))

    def _take(self, wanted: dict[str, Any], include: Any) -> None:
        where = "session.audio.input"
        form = _object(wanted["format"], f"{where}.format")
        kind = form.get("type", "audio/pcm")
        if not isinstance(kind, str) or kind not in _FORMATS:
            raise _EventError(
                "invalid_value", f"must be one of {', '.join(_FORMATS)}", f"{where}.format.type"
            )
        encoding, rate = _FORMATS[kind]
        if kind == "audio/pcm":
            rate = form.get("rate", rate)
            if isinstance(rate, bool) or not isinstance(rate, int) or not RATES[0] <= rate <= RATES[1]:
                raise _EventError(
                    "invalid_value", f"from {RATES[0]} to {RATES[1]} Hz", f"{where}.format.rate"
                )
        if self._open and not self._sessions[-1].turns and (encoding, rate) != (self._encoding, self._rate):
            raise _EventError(
                "invalid_value", "the buffer holds audio: commit or clear it first", f"{where}.format"
            )
        asked = wanted["transcription"]
        _phrases(asked if isinstance(asked, dict) else {})
        rules = _rules(wanted["turn_detection"], f"{where}.turn_detection", self._offer)
        text = _text(wanted | {"include": include})
        if len(text) > 20_000 or text.count("{") + text.count("[") > 100:
            raise _EventError("invalid_value", "the session's settings are too long", "session")
        self._rules, self._encoding, self._rate = rules, encoding, rate
        self._input, self._include = wanted, include

    # ---- events out

    def _tell(self, session: _Session, event: Event) -> list[str]:
        match event:
            case Partial():
                return [*self._began(session, event), *self._delta(session, session.new.partial(event.text))]
            case Final():
                messages = self._began(session, event)
                messages += self._delta(session, session.new.final(event.text))
                session.finals.append(event)
                if session.turns and not session.committed:
                    messages.append(
                        self._event(
                            "input_audio_buffer.speech_stopped",
                            audio_end_ms=self._ms(event.end),
                            item_id=session.item,
                        )
                    )
                    messages.append(self._committed(session))
                    messages.append(self._completed(session, event.end - event.start))
                    session.next_item()
                return messages
            case Ended() if session.committed:
                return [self._completed(session, event.duration)]
        return []

    def _began(self, session: _Session, event: Partial | Final) -> list[str]:
        said, session.said = session.said, True
        if said or not session.turns or session.committed:
            return []
        padding = _turn(self._input["turn_detection"] or {}, "prefix_padding_ms", "")
        start = max(0, self._ms(event.words[0].start) - round(padding))
        return [self._event("input_audio_buffer.speech_started", audio_start_ms=start, item_id=session.item)]

    def _delta(self, session: _Session, text: str) -> list[str]:
        if not text:
            return []
        return [self._event(f"{_TRANSCRIPTION}.delta", item_id=session.item, content_index=0, delta=text)]

    def _committed(self, session: _Session) -> str:
        previous, self._previous = self._previous, session.item
        return self._event("input_audio_buffer.committed", previous_item_id=previous, item_id=session.item)

    def _completed(self, session: _Session, seconds: float) -> str:
        wanted = isinstance(self._include, list) and _LOGPROBS in self._include
        return self._event(
            f"{_TRANSCRIPTION}.completed",
            item_id=session.item,
            content_index=0,
            transcript=join_words(final.text for final in session.finals),
            usage={"type": "duration", "seconds": round(seconds, 3)},
            **({"logprobs": log_probabilities(session.finals)} if wanted else {}),
        )

    def _error(self, code: str, message: str, param: str | None = None, event_id: str | None = None) -> str:
        kind = "server_error" if code == "engine" else "invalid_request_error"
        error = {"type": kind, "code": code, "message": message, "param": param, "event_id": event_id}
        return self._event("error", error=error)

    def _event(self, kind: str, **fields: Any) -> str:
        self._count += 1
        return to_json({"type": kind, "event_id": f"event_{self._id[5:]}_{self._count}"} | fields)

    def _ms(self, seconds: float) -> int:
        return round(1000 * (self._before + seconds))

    def _session(self) -> dict[str, Any]:
        return {
            "type": "transcription",
            "id": self._id,
            "object": "realtime.transcription_session",
            "audio": {"input": self._input},
            "include": self._include,
        }

    def _session_beta(self) -> dict[str, Any]:
        beta = {value: name for name, value in _BETA.items()}
        return {
            "id": self._id,
            "object": "realtime.transcription_session",
            "input_audio_format": beta[self._input["format"].get("type", "audio/pcm")],
            "input_audio_transcription": self._input["transcription"],
            "turn_detection": self._input["turn_detection"],
        }


def _text(value: Any) -> str:
    try:
        return to_json(value)
    except RecursionError:
        return "[" * 1000


def _phrases(transcription: dict[str, Any]) -> tuple[str, ...]:
    """Of keywords, and of a prompt that lists some."""
    keywords, prompt = transcription.get("keywords") or [], transcription.get("prompt") or ""
    where = "session.audio.input.transcription"
    if not isinstance(prompt, str):
        raise _EventError("invalid_type", "a text is expected", f"{where}.prompt")
    if not phrases.good(keywords):
        raise _EventError("invalid_value", phrases.RULE, f"{where}.keywords")
    return phrases.tidy([*keywords, *phrases.prompted(prompt)])


def _rules(value: Any, where: str, offer: Offer) -> Rules:
    if value is None:
        return _LONGEST
    value = _object(value, where)
    silence, threshold, _ = (
        _turn(value, name, where) for name in ("silence_duration_ms", "threshold", "prefix_padding_ms")
    )
    return offer.pauses(silence / 1000, threshold=threshold)


def _turn(value: dict[str, Any], name: str, where: str) -> float:
    """A number of turn_detection."""
    found, most = value.get(name, _TURNS[name]), 1 if name == "threshold" else 60_000
    found = _TURNS[name] if found is None else found
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found <= most:
        raise _EventError("invalid_value", f"from 0 to {most}", f"{where}.{name}")
    return float(found)


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _EventError("invalid_type", "an object is expected", where)
    return value
