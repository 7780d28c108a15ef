"""What a client may ask of a session, and what a session tells: plain values, the same for every wire
protocol.

All times are seconds since the stream's first sample, whatever has been cut into segments before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from asr.search.config import SearchConfig
from asr.search.phrases import Refused
from asr.transcript import Word
from streaming.endpoint import Rules

__all__ = [
    "ENCODINGS",
    "Encoding",
    "Ended",
    "Event",
    "Failed",
    "Final",
    "Heard",
    "Options",
    "Partial",
    "PhrasesRefused",
    "Settled",
    "Token",
]

Encoding = Literal["s16le", "f32le", "u8", "mulaw", "alaw", "container"]
ENCODINGS: dict[str, int] = {"s16le": 2, "f32le": 4, "u8": 1, "mulaw": 1, "alaw": 1, "container": 1}
"""Bytes per sample. A container is a stream of Opus in Ogg or WebM, which says itself what it holds."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """One session's choices.

    `sample_rate` in Hz and `channels` (interleaved, mixed down) describe what the client sends. `model` is the name
    of one that the server has, `latency_ms` one of its engine's `latencies` and `head` one of its `heads`; `None` lets
    the server choose. `partials`, `words` and `confidence` (of words) may be turned off by a client that has no use for
    them; partials come at most every `partial_interval` seconds of audio. `search` brings the phrases that are to be
    recognised more readily, too.
    """

    sample_rate: int = 16_000
    encoding: Encoding = "s16le"
    channels: int = 1
    model: str | None = None
    latency_ms: int | None = None
    head: str | None = None
    partials: bool = True
    partial_interval: float = 0.0
    words: bool = True
    confidence: bool = True
    search: SearchConfig = SearchConfig()
    endpointing: Rules = field(default_factory=Rules)

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample over all channels. A container may be cut anywhere."""
        return 1 if self.encoding == "container" else ENCODINGS[self.encoding] * self.channels

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
    cut it. `settled` and `resume` are as in `Settled`; where the stream ended, the last word lies beyond them unless a
    pause followed.
    """

    segment: int
    text: str
    words: tuple[Word, ...]
    tokens: tuple[Token, ...]
    start: float
    end: float
    speech_final: bool
    settled: float = 0.0
    resume: float = 0.0


@dataclass(frozen=True)
class PhrasesRefused:
    """The first event where some of a session's phrases cannot be boosted: which, and why. The others are."""

    phrases: tuple[Refused, ...]


@dataclass(frozen=True)
class Settled:
    """There was silence. All that was said up to `settled` has been told for good. Another session that is given the
    audio from `resume` on, which is earlier, sees it in the same chunks and with the context that the model needs.
    """

    settled: float
    resume: float


@dataclass(frozen=True)
class Heard:
    """What was said up to about `seconds` has been told. For protocols that measure pauses themselves."""

    seconds: float


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


Event: TypeAlias = PhrasesRefused | Partial | Final | Settled | Heard | Ended | Failed
