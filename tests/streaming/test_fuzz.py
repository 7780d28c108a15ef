"""Any message, in any order, to every protocol: no exception, actions that make sense, no growth.

The slow ones send RILL_FUZZ_MESSAGES of them in all; 20,000 unless it says otherwise.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pickle
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streaming.codecs import splitter
from streaming.events import Ended, Failed, Final, Heard, Options, Partial
from streaming.protocols import Audio, Close, Dialect, Finish, QueryError, Send, Start, Update
from streaming.protocols.openai_rest import RestError, parse_form
from streaming.routes import ROUTES
from tests.streaming.test_protocols import FINAL, OFFER, PARTIAL

KINDS: dict[str, Any] = dict(ROUTES.values())
ABLE = replace(OFFER, voice=True)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda x: st.lists(x, max_size=4) | st.dictionaries(st.text(max_size=12), x, max_size=4),
    max_leaves=12,
)
VALUES = st.sampled_from(
    ["start", "end", "s16le", "2pass", "offline", "c1", "container", "audio/pcm", "transcription", "AAAA", 1, 160, 48_000, True, None, {}, []]
)  # fmt: skip
FIELDS = {
    "native": [
        "type",
        "protocol",
        "sample_rate",
        "encoding",
        "channels",
        "latency_ms",
        "head",
        "endpointing",
        "model",
        "words",
        "partial_interval",
        "phrases",
        "search",
    ],
    "sherpa": ["Done"],
    "sherpa-python": ["Done"],
    "vosk": ["config", "sample_rate", "eof", "reset", "words", "phrase_list", "model"],
    "wenet": ["signal", "nbest", "continuous_decoding"],
    "funasr": [
        "mode",
        "audio_fs",
        "wav_format",
        "wav_name",
        "is_speaking",
        "is_end",
        "chunk_size",
        "hotwords",
    ],
    "whisperlive": [
        "uid",
        "audio_format",
        "send_last_n_segments",
        "word_timestamps",
        "hotwords",
        "use_vad",
        "vad_parameters",
        "threshold",
        "min_silence_duration_ms",
    ],
    "deepgram": ["type"],
    "openai": [
        "type",
        "event_id",
        "session",
        "audio",
        "input",
        "format",
        "turn_detection",
        "threshold",
        "prefix_padding_ms",
        "silence_duration_ms",
        "include",
        "transcription",
        "keywords",
        "prompt",
    ],
}
SPOKEN = {
    "native": [
        {"type": "start"},
        {"type": "update", "words": False},
        {"type": "update", "latency_ms": 160},
        {"type": "end"},
    ],
    "sherpa": [],
    "sherpa-python": [],
    "vosk": [{"config": {"sample_rate": 8000}}, {"reset": 1}, {"eof": 1}],
    "wenet": [{"signal": "start", "continuous_decoding": True}, {"signal": "end"}],
    "funasr": [
        {"mode": "2pass"},
        {"mode": "offline", "wav_format": "ogg"},
        {"is_speaking": False, "is_end": True},
    ],
    "whisperlive": [
        {"uid": "c1"},
        {"uid": "c1", "audio_format": "uint8"},
        {"uid": "c1", "use_vad": True, "vad_parameters": {"threshold": 0.6}},
    ],
    "deepgram": [{"type": "KeepAlive"}, {"type": "Finalize"}, {"type": "Configure"}],
    "openai": [
        {"type": "input_audio_buffer.append", "audio": base64.b64encode(bytes(11)).decode()},
        {"type": "input_audio_buffer.commit"},
        {"type": "input_audio_buffer.clear"},
        {"type": "session.update", "session": {"audio": {"input": {"turn_detection": None}}}},
        {"type": "session.update", "session": {"audio": {"input": {"turn_detection": {"threshold": 0.6}}}}},
        {"type": "session.update", "session": {"audio": {"input": {"format": {"type": "audio/pcmu"}}}}},
        {"type": "transcription_session.update", "session": {"input_audio_format": "pcm16"}},
    ],
}


def messages(name: str) -> st.SearchStrategy[str | bytes]:
    objects = st.dictionaries(st.sampled_from(FIELDS[name]), JSON | VALUES, max_size=6)
    spoken = st.sampled_from([json.dumps(x) for x in SPOKEN[name]] or ["Done"])
    return (
        spoken
        | st.sampled_from([bytes(640), bytes(4), b"", b"END_OF_AUDIO", "Done", "[" * 2000, '{"a":' * 900])
        | st.text(max_size=40)
        | st.binary(max_size=40)
        | JSON.map(json.dumps)
        | objects.map(json.dumps)
        | st.tuples(st.sampled_from(SPOKEN[name] or [{}]), objects).map(lambda x: json.dumps(x[0] | x[1]))
    )


class Server:
    """What a server does with a dialect, held to what a dialect may ask of it."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.options: Options | None = None
        self.closed = self.finished = False
        self.act(dialect.open())

    def act(self, actions: Sequence[Any]) -> None:
        for action in actions:
            match action:
                case Start(options):
                    assert self.options is None, "two sessions at a time"
                    assert options.latency_ms in OFFER.latencies and options.head in OFFER.heads
                    splitter(options)
                    self.options = options
                case Update(options):
                    assert options.latency_ms in OFFER.latencies
                case Audio(data):
                    assert isinstance(data, bytes)
                    assert self.options is not None or self.finished
                case Finish(more):
                    self.finished |= not more
                    if self.options is not None:
                        self.options = None
                        self.tell(Ended(1.0))
                case Send(message):
                    message.encode()
                case Close(_, reason, _):
                    assert 0 < len(reason.encode()) <= 123
                    self.closed = True

    def tell(self, event: Partial | Final | Heard | Ended | Failed) -> None:
        for message in self.dialect.send([event]):
            message.encode()


def talk(name: str, sent: Sequence[str | bytes], told: Sequence[Any]) -> Dialect:
    server = Server(KINDS[name](ABLE, "encoding=linear16&sample_rate=16000"))
    for message, event in zip(sent, told, strict=True):
        if server.closed:
            break
        server.act(server.dialect.receive(message))
        if event is not None and server.options is not None:
            server.tell(event)
    for kind in ("ended", "idle", "bad_audio"):
        assert all(isinstance(x, str) for x in server.dialect.bye(kind, "why"))
    return server.dialect


def talks(name: str, *, least: int, most: int) -> st.SearchStrategy[list[Any]]:
    event = st.sampled_from([None, PARTIAL, FINAL, Heard(1.0)])
    return st.lists(st.tuples(messages(name), event), min_size=least, max_size=most)


QUICK = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
MESSAGES = int(os.environ.get("RILL_FUZZ_MESSAGES", "20000"))
TALK, ORDERS = (
    40,
    5,
)  # messages of a talk; what takes time is to make them up, so each is sent in several orders
EXAMPLES = max(1, MESSAGES // (TALK * ORDERS * len(KINDS)))
LONG = settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("name", KINDS)
@QUICK
@given(data=st.data())
def test_no_message_raises(name: str, data: st.DataObject) -> None:
    pairs = data.draw(talks(name, least=0, most=8))
    talk(name, [x for x, _ in pairs], [x for _, x in pairs])


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
@LONG
@given(data=st.data())
def test_many_messages(name: str, data: st.DataObject) -> None:
    """Each to a new connection where the one before was closed."""
    pairs = data.draw(talks(name, least=TALK, most=TALK))
    server = Server(KINDS[name](ABLE, "encoding=linear16&sample_rate=16000"))
    for message, event in (pairs[i * step % TALK] for step in (1, 3, 7, -1, -3) for i in range(TALK)):
        if server.closed:
            server = Server(KINDS[name](ABLE, "encoding=linear16&sample_rate=16000"))
        server.act(server.dialect.receive(message))
        if event is not None and server.options is not None:
            server.tell(event)


@pytest.mark.parametrize("name", KINDS)
def test_no_message_makes_a_connection_grow(name: str) -> None:
    """Thousands of good messages leave no more behind than some."""
    spoken: list[str | bytes] = [
        json.dumps(x) for x in SPOKEN[name] if not x.keys() & {"eof"} and x != {"type": "end"}
    ]
    spoken += [bytes(640)]
    server = Server(KINDS[name](ABLE, "encoding=linear16&sample_rate=16000"))
    sizes = []
    for i in range(3000):
        answer = server.dialect.receive(spoken[i % len(spoken)])
        if i % 500 == 499:
            sizes.append(len(pickle.dumps(server.dialect)))
        if any(isinstance(x, Close) for x in answer):
            server = Server(KINDS[name](ABLE, "encoding=linear16&sample_rate=16000"))
            continue
        server.act(answer)
        if server.options is not None:
            server.tell(PARTIAL)
    assert max(sizes) < 1.1 * sizes[0] + 500


@QUICK
@given(st.text(max_size=60) | st.dictionaries(
    st.sampled_from(["encoding", "sample_rate", "channels", "endpointing", "utterance_end_ms", "vad_events"]),
    st.sampled_from(["linear16", "16000", "true", "false", "-1", "", "٣", "1e9"]), max_size=6,
).map(lambda x: "&".join(f"{k}={v}" for k, v in x.items())))  # fmt: skip
def test_no_query_raises_but_its_refusal(query: str) -> None:
    for make in KINDS.values():
        try:
            Server(make(OFFER, query))
        except QueryError as error:
            json.dumps(error.body)


PART = st.tuples(
    st.sampled_from(["file", "model", "response_format", "stream", "timestamp_granularities[]", "x"]),
    st.binary(max_size=30) | st.sampled_from([b"json", b"true", b"word", b"vtt"]),
).map(
    lambda x: b'--b\r\nContent-Disposition: form-data; name="' + x[0].encode() + b'"\r\n\r\n' + x[1] + b"\r\n"
)


@QUICK
@given(
    st.sampled_from(["multipart/form-data; boundary=b", "multipart/form-data", "text/plain"])
    | st.text(max_size=30),
    st.lists(PART | st.binary(max_size=30), max_size=6).map(b"".join),
    st.sampled_from([b"--b--\r\n", b"--b--", b""]),
)
def test_no_form_raises_but_its_refusal(content_type: str, body: bytes, end: bytes) -> None:
    with contextlib.suppress(RestError):
        assert parse_form(content_type, body + end).file
