"""Paths of websockets -> protocols. The table with all that is served: `streaming.protocols`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from asr.errors import ConfigError
from streaming.protocols import Dialect, Offer
from streaming.protocols.deepgram import Deepgram
from streaming.protocols.funasr import FunASR
from streaming.protocols.native import Native
from streaming.protocols.openai import OpenAI
from streaming.protocols.sherpa import Sherpa, SherpaPython
from streaming.protocols.vosk import Vosk
from streaming.protocols.wenet import Wenet
from streaming.protocols.whisperlive import WhisperLive

__all__ = ["ROUTES", "TRANSCRIPTIONS", "Route", "routes"]

Route: TypeAlias = tuple[str, Callable[[Offer, str], Dialect]]
"""The protocol's name, and what makes its side of a connection from the offer and the URL's query."""

ROUTES: dict[str, Route] = {
    "/v1/stream": ("native", Native),
    "/sherpa": ("sherpa", Sherpa),
    "/sherpa/python": ("sherpa-python", SherpaPython),
    "/vosk": ("vosk", Vosk),
    "/wenet": ("wenet", Wenet),
    "/funasr": ("funasr", FunASR),
    "/whisperlive": ("whisperlive", WhisperLive),
    "/v1/listen": ("deepgram", Deepgram),
    "/v1/realtime": ("openai", OpenAI),
}

TRANSCRIPTIONS = "/v1/audio/transcriptions"
"""Path of the REST requests."""


def routes(root: str) -> dict[str, Route]:
    """`ROUTES`, and at `/` the protocol named `root`. Plain HTTP on `/` is the page. Raises ConfigError."""
    names = {route[0]: route for route in ROUTES.values()}
    if root not in names:
        raise ConfigError(f"no protocol {root!r} for the root; known: {', '.join(names)}")
    return ROUTES | {"/": names[root]}
