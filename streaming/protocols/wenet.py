"""WeNet's websocket protocol, as its C++ runtime of December 2025 speaks it (`websocket_server.cc`). Path `/wenet`.

    client  {"signal": "start", "nbest": 1, "continuous_decoding": true}
    server  {"status": "ok", "type": "server_ready"}
    client  <binary>  16-bit little-endian samples, 16 kHz, mono
    server  {"status": "ok", "type": "partial_result", "nbest": "[{\\"sentence\\": ...}]"}     JSON in a string
    server  {"status": "ok", "type": "final_result", "nbest": "[{\\"sentence\\", \\"word_pieces\\"}]"}
    client  {"signal": "end"}
    server  final_result, {"status": "ok", "type": "speech_end"}, close frame

Without `continuous_decoding` the first pause ends the recognition: final_result, speech_end, and what comes after
is passed over. `word_pieces` are whole words, their times in milliseconds. Of `nbest` there is one. Errors:
`{"status": "failed", "message": ...}` and a close frame.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from asr.text import join_words
from asr.transcript import Word
from streaming.events import Ended, Event, Failed, Final, Partial
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

__all__ = ["Wenet"]


class Wenet(Dialect):
    """One connection. See `streaming.protocols.Dialect`."""

    def __init__(self, offer: Offer, query: str = "") -> None:
        self._offer = offer
        self._started = self._finished = False
        self._continuous = False
        self._waiting: list[Final] = []  # of the speech that has not paused yet
        self._results = 0
        self._over = False

    def open(self) -> list[Action]:
        return []

    def receive(self, message: str | bytes) -> list[Action]:
        if isinstance(message, bytes):
            if not self._started:
                return _error("Start signal is expected before binary data")
            return [] if self._finished or self._over else [Audio(message)]
        request = parse_object(message)
        match None if request is None else request.get("signal"):
            case "start" if not self._started:
                return self._start(request or {})
            case "start":
                return _error("start came twice: one connection is one session")
            case "end" if self._started and not self._finished:
                self._finished = True
                return [Finish()]
            case "end":
                return _error("end came without a start") if not self._started else []
            case None:
                return _error('Wrong message header: send {"signal": "start"} or {"signal": "end"}')
            case signal:
                return _error(f"Unexpected signal type {shown(signal)}; known: start, end")

    def send(self, events: Sequence[Event], *, lag: float = 0.0) -> list[str]:
        messages: list[str] = []
        for event in events:
            if self._over:
                break
            match event:
                case Failed():
                    messages.append(to_json({"status": "failed", "message": event.message}))
                case Partial():
                    messages.append(_result("partial_result", [*self._waiting, event]))
                case Final():
                    self._waiting.append(event)
                    if self._continuous or event.speech_final:
                        messages.append(self._final())
                    if event.speech_final and not self._continuous:
                        messages.append(self._end())
                case Ended():
                    if self._waiting or not self._results:
                        messages.append(self._final())
                    messages.append(self._end())
        return messages

    def _start(self, request: dict[str, Any]) -> list[Action]:
        nbest, continuous = request.get("nbest", 1), request.get("continuous_decoding", False)
        if isinstance(nbest, bool) or not isinstance(nbest, int):
            return _error("integer is expected for nbest option")
        if not isinstance(continuous, bool):
            return _error("boolean true or false is expected for continuous_decoding option")
        self._started, self._continuous = True, continuous
        return [Start(self._offer.options()), Send(to_json({"status": "ok", "type": "server_ready"}))]

    def _final(self) -> str:
        finals, self._waiting = self._waiting, []
        self._results += 1
        return _result("final_result", finals)

    def _end(self) -> str:
        self._over = True
        return to_json({"status": "ok", "type": "speech_end"})


def _result(kind: str, events: Sequence[Partial | Final]) -> str:
    path: dict[str, Any] = {"sentence": join_words(event.text for event in events)}
    if kind == "final_result":
        path["word_pieces"] = [_piece(word) for event in events for word in event.words]
    return to_json({"status": "ok", "type": kind, "nbest": json.dumps([path], ensure_ascii=False)})


def _piece(word: Word) -> dict[str, Any]:
    return {"word": word.text, "start": round(1000 * word.start), "end": round(1000 * word.end)}


def _error(message: str) -> list[Action]:
    return [
        Send(to_json({"status": "failed", "message": message})),
        Close(1008, close_reason(message), "bad_message"),
    ]
