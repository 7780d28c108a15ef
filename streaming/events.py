"""What a client may ask of a session, and what a session tells: plain values, the same for every wire
protocol.

All times are seconds since the stream's first sample, whatever has been cut into segments before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from asr.transcript import Word
from streaming.endpoint import Rules

__all__ = ["ENCODINGS", "Encoding", "Ended", "Event", "Failed", "Final", "Options", "Partial", "Token"]

Encoding = Literal["s16le", "f32le"]
ENCODINGS: dict[str, int] = {"s16le": 2, "f32le": 4}
"""Bytes per sample."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """One session's choices.

    `sample_rate` in Hz and `channels` (interleaved, mixed down) describe what the client sends. `latency_ms`
    is one of the engine's `latencies` and `head` one of its `heads`; `None` lets the server choose.
    `partials` and `words` may be turned off by a client that has no use for them.
    """

    sample_rate: int = 16_000
    encoding: Encoding = "s16le"
    channels: int = 1
    latency_ms: int | None = None
    head: str | None = None
    partials: bool = True
    words: bool = True
    endpointing: Rules = field(default_factory=Rules)

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample over all channels."""
        return ENCODINGS[self.encoding] * self.channels

    @property
    def bytes_per_second(self) -> int:
        return self.frame_bytes * self.sample_rate


@dataclass(frozen=True)
class Token:
    """A token of the model: its piece of text (a leading space begins a word), when it was emitted, how
    surely.
    """

    text: str
    time: float
    log_probability: float


@dataclass(frozen=True, kw_only=True)
class Partial:
    """The text of the running segment so far. It replaces the segment's earlier partials and may still
    change.
    """

    segment: int
    text: str
    words: tuple[Word, ...]
    tokens: tuple[Token, ...]


@dataclass(frozen=True, kw_only=True)
class Final:
    """The text of a segment, for good. `speech_final`: the speaker paused, or the stream ended; else length
    cut it.
    """

    segment: int
    text: str
    words: tuple[Word, ...]
    tokens: tuple[Token, ...]
    start: float
    end: float
    speech_final: bool


@dataclass(frozen=True)
class Ended:
    """The stream's last event: all of its `duration` seconds were heard."""

    duration: float


@dataclass(frozen=True)
class Failed:
    """The stream's last event where it could not go on. `message` names the cause and the remedy for the
    client.
    """

    code: str
    message: str


Event: TypeAlias = Partial | Final | Ended | Failed
