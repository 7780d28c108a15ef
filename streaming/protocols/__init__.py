"""Wire protocols: a message in -> actions, events -> messages out. No sockets: the server carries the actions
out.

One file a protocol. A protocol's class is made for one connection and is a `Dialect`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from streaming.events import Event, Options

__all__ = [
    "Action",
    "Audio",
    "Close",
    "Dialect",
    "Finish",
    "Limits",
    "Offer",
    "Send",
    "Start",
    "close_reason",
]


@dataclass(frozen=True)
class Start:
    """Open the session. Every option is resolved: `latency_ms` and `head` are set."""

    options: Options


@dataclass(frozen=True)
class Audio:
    """Whole samples of the session's encoding."""

    data: bytes


@dataclass(frozen=True)
class Finish:
    """No more audio follows."""


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


Action: TypeAlias = Start | Audio | Finish | Send | Close


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the server allows; a client is told at once and again when one of them closes its session."""

    sessions: int = 100
    """Sessions at a time; more are answered with HTTP 503 and `Retry-After`."""
    message_bytes: int = 1_048_576
    """One message. A larger one closes the connection with code 1009."""
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


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What a server can do for a session."""

    server: str
    latencies: tuple[int, ...]
    heads: tuple[str, ...]
    default_latency: int
    default_head: str
    limits: Limits


class Dialect(Protocol):
    """One connection's side of a wire protocol."""

    def open(self) -> list[Action]:
        """What happens before the client's first message."""
        ...

    def receive(self, message: str | bytes) -> list[Action]:
        """Never raises for anything that a client can send: what is wrong becomes an error message and a
        `Close`.
        """
        ...

    def send(self, events: Sequence[Event], *, lag: float = 0.0) -> list[str]:
        """The messages for events of one step, in order; `lag` is their delay behind the audio in seconds."""
        ...

    def bye(self, kind: str, reason: str, *, lag: float = 0.0) -> list[str]:
        """The last messages before the server closes: why, in this protocol's own form if it has one."""
        ...


def close_reason(text: str) -> str:
    """`text` cut to what a close frame holds, at a whole character."""
    return text.encode()[:123].decode(errors="ignore")
