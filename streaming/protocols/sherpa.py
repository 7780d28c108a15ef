"""sherpa-onnx's online websocket protocol, of August 2026. Path `/sherpa`: as its C++ server speaks it
(`online-websocket-server-impl.cc`, `OnlineRecognizerResult::AsJsonString`).

    client  <binary>  float32 little-endian samples in [-1, 1], 16 kHz, mono, from the first message on
    server  {"text": "AFTER EARLY", "tokens": [" AFTER", ...], "timestamps": [0.64, ...], ..., "is_final": false}
    client  Done      no more audio
    server  {..., "is_final": true, "is_eof": true}
    server  Done!

Path `/sherpa/python`: as `streaming_server.py` speaks it, `{"text": ..., "segment": ...}` and no `Done!`.

`text` is the whole hypothesis of `segment` and replaces what was said of it before; a message with `is_final`
is the last of its segment. Python clients read `text` and `segment` only and stop at `Done!` or at the close
frame. `timestamps` count from `start_time`, where the segment began. There are no options and no errors in
this protocol: a message that breaks it closes the connection, and the close frame's reason names the remedy.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from streaming.events import Ended, Event, Final, Partial
from streaming.protocols import ENDINGS, Action, Audio, Close, Dialect, Finish, Offer, Start, close_reason

__all__ = ["Sherpa", "SherpaPython"]


class Sherpa(Dialect):
    """One connection, as the C++ server's. See `streaming.protocols.Dialect`."""

    def __init__(self, offer: Offer, query: str = "") -> None:
        self._options = offer.options(sample_rate=16_000, encoding="f32le")
        self._finished = False
        self._segment = 0
        self._start = 0.0

    def open(self) -> list[Action]:
        return [Start(self._options)]

    def receive(self, message: str | bytes) -> list[Action]:
        if self._finished:
            return [
                _close(1008, "after_end", "a message came after Done: open a new connection for more audio")
            ]
        if isinstance(message, str):
            if message != "Done":
                return [
                    _close(
                        1003,
                        "bad_text",
                        "the one text message is Done; audio goes in binary float32 messages",
                    )
                ]
            self._finished = True
            return [Finish()]
        if len(message) % 4:
            remedy = "audio must be float32 at 16 kHz, 4 bytes a sample; split it between samples only"
            return [_close(1007, "bad_audio", f"{len(message)} bytes: {remedy}")]
        return [Audio(message)] if message else []

    def send(self, events: Sequence[Event], *, lag: float = 0.0) -> list[str]:
        messages: list[dict[str, Any]] = []
        for event in events:
            match event:
                case Partial() | Final():
                    messages.append(self._result(event))
                case Ended():
                    # The last result and the end are one message, unless a pause had already closed the last
                    # segment.
                    if not (messages and messages[-1]["is_final"]):
                        messages.append(self._empty())
                    messages[-1]["is_eof"] = True
        return [json.dumps(message, ensure_ascii=False) for message in messages]

    def bye(self, kind: str, reason: str, *, lag: float = 0.0) -> list[str]:
        return ["Done!"] if kind in ENDINGS else []

    def _result(self, event: Partial | Final) -> dict[str, Any]:
        start = self._start
        result = self._empty() | {
            "text": event.text,
            "tokens": [token.text for token in event.tokens],
            "timestamps": [round(max(0.0, token.time - start), 2) for token in event.tokens],
            "ys_probs": [round(token.log_probability, 6) for token in event.tokens],
            "segment": event.segment,
            "is_final": isinstance(event, Final),
        }
        if isinstance(event, Final):
            self._segment, self._start = event.segment + 1, event.end
        return result

    def _empty(self) -> dict[str, Any]:
        return {
            "text": "",
            "tokens": [],
            "timestamps": [],
            "ys_probs": [],
            "lm_probs": [],
            "context_scores": [],
            "segment": self._segment,
            "words": [],
            "start_time": round(self._start, 2),
            "is_final": True,
            "is_eof": False,
        }


class SherpaPython(Sherpa):
    """One connection, as the Python server's: the close frame says that all has been said."""

    def send(self, events: Sequence[Event], *, lag: float = 0.0) -> list[str]:
        results = [event for event in events if isinstance(event, Partial | Final)]
        return [json.dumps({"text": x.text, "segment": x.segment}, ensure_ascii=False) for x in results]

    def bye(self, kind: str, reason: str, *, lag: float = 0.0) -> list[str]:
        return []


def _close(code: int, kind: str, reason: str) -> Close:
    return Close(code, close_reason(reason), kind)
