"""Wire protocols: a message in -> actions, events -> messages out. No sockets: the server carries the actions
out.

One file a protocol, which says what of it is spoken. A protocol's class is made for one connection and is a
`Dialect`. All are served on one port, by path (`streaming.routes`):

    path                            protocol      file             audio
    /v1/stream                      native        native.py        any
    /sherpa                         sherpa        sherpa.py        f32le, 16 kHz
    /sherpa/python                  sherpa-python sherpa.py        f32le, 16 kHz
    /vosk                           vosk          vosk.py          s16le, 8 kHz or as configured
    /wenet                          wenet         wenet.py         s16le, 16 kHz
    /funasr                         funasr        funasr.py        s16le, 16 kHz or as configured
    /whisperlive                    whisperlive   whisperlive.py   f32le, s16le or u8, 16 kHz
    /v1/listen                      deepgram      deepgram.py      any, by query
    /v1/realtime                    openai        openai.py        s16le 24 kHz, G.711, in base64
    POST /v1/audio/transcriptions   openai-rest   openai_rest.py   a file
    /                               the one that `asr serve --root` names; sherpa by default

The paths under /v1 are those of the services. The other protocols' own servers listen on `/`, and many of their
clients take a host and a port only: for them `--root vosk` and the like.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol, TypeAlias

from asr.errors import ConfigError, ProtocolError
from asr.search.config import SearchConfig
from streaming.endpoint import Rules
from streaming.events import Event, Options

__all__ = [
    "ENDINGS",
    "Action",
    "Audio",
    "Close",
    "Dialect",
    "Finish",
    "Limits",
    "Offer",
    "QueryError",
    "Send",
    "Start",
    "Update",
    "close_reason",
    "parse_object",
    "shown",
    "to_json",
]


@dataclass(frozen=True)
class Start:
    """Open a session, when the one before has ended. Every option is resolved: `latency_ms` and `head` are set."""

    options: Options


@dataclass(frozen=True)
class Audio:
    """In the session's encoding. A part of a sample, or what is no audio, comes back as the event `Failed`."""

    data: bytes


@dataclass(frozen=True)
class Update:
    """What the open session is to do from now on: see `streaming.session.Session.update`."""

    options: Options


@dataclass(frozen=True)
class Finish:
    """No more audio follows in this session. The connection closes after its last event, unless `more` may
    come: then another `Start` opens the next session.
    """

    more: bool = False


@dataclass(frozen=True)
class Send:
    """A text message for the client."""

    message: str


@dataclass(frozen=True)
class Close:
    """Close the connection; nothing of the session is wanted any more. `reason` fits in a close frame: 123
    bytes.
    """

    code: int
    reason: str
    kind: str


Action: TypeAlias = Start | Update | Audio | Finish | Send | Close


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the server allows; a client is told at once and again when one of them closes its session."""

    sessions: int = 100
    """Sessions at a time; more are answered with HTTP 503 and `Retry-After`."""
    address_sessions: int | None = None
    """The same for the clients of one address, HTTP 429; `None`: no limit of their own."""
    token_sessions: int | None = None
    """The same for those that bring one token."""
    lag_seconds: float | None = 0.5
    """Delay of text that is too much: new sessions are refused before the open ones would get there. `None`: never."""
    message_bytes: int = 1_048_576
    """One message. A larger one closes the connection with code 1009."""
    messages_per_second: float = 1000.0
    """Of one connection, after ten seconds' worth; beyond it the server reads no faster, and TCP slows the sender."""
    upload_bytes: int = 26_214_400
    """A file in one request. A larger one is answered with HTTP 413."""
    backlog_seconds: float = 8.0
    """Audio received and not yet recognised. Beyond it the server stops reading, and TCP slows the sender."""
    idle_seconds: float = 60.0
    """Without any message. The session is ended as if the client had, and the connection closed."""
    session_seconds: float = 14_400.0
    """Of audio in one session, which is then ended the same way."""
    queued_finals: int = 64
    """Finals that the client has not read. Partials do not count: a newer one replaces an unsent older one.
    """
    send_seconds: float = 30.0
    """In which a client must take a message; one that never reads is closed."""
    drain_seconds: float = 10.0
    """From SIGTERM to the process's end: sessions are ended and their finals sent in this time."""

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if value is not None and not value > 0:
                raise ConfigError(f"limits: {limit.name} is {value}; it must be more than 0")


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What a server can do for a session: its first model, and the `others` that it has."""

    server: str
    model: str | None = None
    """Its name; one that is alone has none."""
    latencies: tuple[int, ...]
    heads: tuple[str, ...]
    default_latency: int
    default_head: str
    limits: Limits
    voice: bool = False
    """It can tell where somebody speaks: `Rules.voice`."""
    searches: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The kinds of search that each head has."""
    language_models: tuple[str, ...] = ()
    """Names, of which a session may choose one."""
    bigrams: tuple[str, ...] = ()
    """Those of them that can be subtracted: `SearchConfig.lodr`."""
    search: SearchConfig = SearchConfig()
    """Of sessions that do not choose."""
    others: tuple[Offer, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Of all models."""
        return tuple(x.model or self.server for x in (self, *self.others))

    def named(self, *wanted: Any) -> Offer:
        """The same with another model as the first: the first that a client asks for, by name or language, and that
        is there. Clients of a service send names of its models, which mean nothing here.
        """
        every = [replace(x, others=()) for x in (self, *self.others)]
        for name in wanted:
            for i, one in enumerate(every):
                if name is not None and one.model == name:
                    return replace(one, others=(*every[:i], *every[i + 1 :]))
        return self

    def pauses(self, seconds: float, *, threshold: float = 0.5) -> Rules:
        """Speech ends after so long a pause: by voice, if there is a detector, as the services themselves tell it; else
        by words. Both within what `Rules` allow.
        """
        seconds = min(max(seconds, 0.1), 60.0)
        if not self.voice:
            return Rules(silence=seconds)
        silence, threshold = max(seconds, Rules().silence or 0.0), min(max(threshold, 0.05), 0.95)
        return Rules(silence=silence, voice=seconds, threshold=threshold)

    def options(self, *, phrases: tuple[str, ...] = (), **fields: Any) -> Options:
        """This model's defaults, but for these fields; `phrases`, if any, take the place of the search's own."""
        search = replace(self.search, phrases=phrases) if phrases else self.search
        defaults = {"model": self.model, "latency_ms": self.default_latency, "head": self.default_head}
        return Options(**(defaults | {"search": search} | fields))


class Dialect(Protocol):
    """One connection's side of a wire protocol. Made from the server's offer and the query of the connection's
    URL; `QueryError` is raised for a query that will not do.
    """

    wants_heard: bool = False
    """Whether `send` is given `Heard` after each step."""

    def open(self) -> list[Action]:
        """What happens before the client's first message."""
        ...

    def receive(self, message: str | bytes) -> list[Action]:
        """Never raises for anything that a client can send: what is wrong becomes an error message and a
        `Close`.
        """
        ...

    def send(self, events: Sequence[Event], *, lag: float = 0.0) -> list[str]:
        """The messages for events, in order; `lag` is their delay behind the audio in seconds."""
        ...

    def bye(self, kind: str, reason: str, *, lag: float = 0.0) -> list[str]:
        """The last messages before the server closes: why, in this protocol's own form if it has one."""
        return []


class QueryError(ProtocolError):
    """A connection that is not opened: answered with HTTP 400 and this JSON body, in the protocol's own form."""

    def __init__(self, message: str, body: dict[str, Any]) -> None:
        super().__init__(message)
        self.body = body


ENDINGS = frozenset({"ended", "idle", "session_length", "shutdown"})
"""The kinds of closing before which all of the client's audio was recognised."""


def parse_object(text: str) -> dict[str, Any] | None:
    """The JSON object that a text message is, or `None`."""
    try:
        message = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def _no_constant(name: str) -> float:
    raise ValueError(name)


def to_json(message: dict[str, Any]) -> str:
    return json.dumps(message, ensure_ascii=False, separators=(",", ":"))


def shown(value: Any) -> str:
    """A client's value for a message to that client: short whatever was sent."""
    try:
        text = json.dumps(value)
    except RecursionError:
        text = "a deeply nested value"
    return text if len(text) <= 60 else text[:57] + "..."


def close_reason(text: str) -> str:
    """`text` cut to what a close frame holds, at a whole character."""
    return text.encode()[:123].decode(errors="ignore")
