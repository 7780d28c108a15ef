from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.transcript import Word
from streaming.endpoint import Rules
from streaming.events import Ended, Event, Failed, Final, Options, Partial, Settled, Token
from streaming.protocols import Action, Audio, Close, Finish, Limits, Offer, Send, Start
from streaming.protocols.native import Native
from streaming.protocols.sherpa import Sherpa

OFFER = Offer(
    server="rill",
    latencies=(160, 320),
    heads=("transducer", "ctc"),
    default_latency=320,
    default_head="transducer",
    limits=Limits(),
)
WORDS = (Word("after", 0.64, 0.8, 0.875), Word("early", 0.92, 1.2, 0.5))
TOKENS = (Token(" after", 0.64, -0.2), Token(" ear", 0.92, -0.1), Token("ly", 1.0, -0.5))
PARTIAL = Partial(segment=0, text="after early", words=WORDS, tokens=TOKENS)
FINAL = Final(
    segment=0, text="after early", words=WORDS, tokens=TOKENS, start=0.64, end=1.2, speech_final=True
)


def started(**fields: Any) -> Native:
    native = Native(OFFER)
    native.receive(json.dumps({"type": "start", **fields}))
    return native


def sent(actions: list[Action]) -> list[dict[str, Any]]:
    return [json.loads(x.message) for x in actions if isinstance(x, Send)]


# ---- native


def test_hello_announces_offer_and_limits() -> None:
    (hello,) = sent(Native(OFFER).open())
    assert (hello["type"], hello["protocol"]) == ("hello", 1)
    assert hello["latencies_ms"] == [160, 320]
    assert hello["encodings"] == ["s16le", "f32le", "u8", "mulaw", "alaw", "container"]
    assert hello["limits"]["idle_seconds"] == 60


def test_start_resolves_and_echoes_options() -> None:
    start, echo = Native(OFFER).receive('{"type": "start"}')
    assert start == Start(Options(latency_ms=320, head="transducer"))
    assert isinstance(echo, Send)
    assert json.loads(echo.message)["latency_ms"] == 320
    start = Native(OFFER).receive(
        json.dumps(
            {
                "type": "start",
                "protocol": 1,
                "sample_rate": 48_000,
                "encoding": "f32le",
                "channels": 2,
                "latency_ms": 160,
                "head": "ctc",
                "partials": False,
                "words": False,
                "endpointing": {"silence": 0.8, "no_text": None},
            }
        )
    )[0]
    assert start == Start(
        Options(
            sample_rate=48_000,
            encoding="f32le",
            channels=2,
            latency_ms=160,
            head="ctc",
            partials=False,
            words=False,
            endpointing=Rules(silence=0.8, no_text=None),
        )
    )


def test_audio_and_end() -> None:
    native = started()
    assert native.receive(b"abcd") == [Audio(b"abcd")]
    assert native.receive(b"") == []
    assert native.receive('{"type": "end"}') == [Finish()]


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"sample_rat": 8000}, "unknown_field", 'did you mean "sample_rate"?'),
        ({"zzz": 1}, "unknown_field", "known: protocol, sample_rate"),
        ({"encoding": "int16"}, "bad_field", "one of s16le, f32le"),
        ({"encoding": ["s16le"]}, "bad_field", "one of s16le, f32le"),
        ({"sample_rate": 1}, "bad_field", "from 4000 to"),
        ({"sample_rate": "16000"}, "bad_field", "whole number"),
        ({"sample_rate": True}, "bad_field", "whole number"),
        ({"channels": 0}, "bad_field", "from 1 to 8"),
        ({"latency_ms": 100}, "bad_field", "one of 160, 320"),
        ({"head": "attention"}, "bad_field", "one of transducer, ctc"),
        ({"partials": "yes"}, "bad_field", "true or false"),
        ({"protocol": 2}, "bad_field", "the only version"),
        ({"endpointing": 3}, "bad_field", "an object such as"),
        ({"endpointing": {"silense": 1}}, "unknown_field", 'did you mean "silence"?'),
        ({"endpointing": {"length": None}}, "bad_field", "a number of seconds"),
        ({"endpointing": {"length": 9999}}, "bad_field", "from 1.0 to 120.0 s"),
        ({"endpointing": {"silence": 10**400}}, "bad_field", "a number of seconds"),
    ],
)
def test_a_bad_start_names_field_and_remedy(fields: dict[str, Any], code: str, words: str) -> None:
    send, close = Native(OFFER).receive(json.dumps({"type": "start", **fields}))
    (error,) = sent([send])
    assert (error["type"], error["code"]) == ("error", code)
    assert words in error["message"]
    assert isinstance(close, Close)
    assert (close.code, close.kind) == (1008, code)


@pytest.mark.parametrize(
    ("native", "message", "code", "words"),
    [
        (Native(OFFER), b"ab", "audio_before_start", 'send {"type": "start"'),
        (Native(OFFER), "hello there", "bad_json", "audio goes in binary messages"),
        (Native(OFFER), "[1]", "bad_json", "JSON object"),
        (Native(OFFER), '{"a": NaN}', "bad_json", "JSON object"),
        (Native(OFFER), "[" * 100_000, "bad_json", "JSON object"),
        (Native(OFFER), '{"type": "strat"}', "unknown_type", 'did you mean "start"?'),
        (Native(OFFER), '{"type": {}}', "unknown_type", "known: start, update, end"),
        (Native(OFFER), '{"type": "end"}', "end_before_start", "no session"),
        (started(), '{"type": "start"}', "already_started", "one connection is one session"),
        (started(), '{"type": "end", "x": 1}', "unknown_field", "there are none"),
        (started(), b"abc", "bad_audio", "3 bytes are no whole number of samples"),
        (started(channels=2, encoding="f32le"), b"abcd", "bad_audio", "f32le of 2 channel(s) has 8 bytes"),
    ],
)
def test_what_breaks_the_protocol(native: Native, message: str | bytes, code: str, words: str) -> None:
    send, close = native.receive(message)
    (error,) = sent([send])
    assert error["code"] == code
    assert words in error["message"]
    assert isinstance(close, Close)
    assert len(close.reason.encode()) <= 123


def test_text_messages() -> None:
    native = started()
    told = [PARTIAL, replace(FINAL, settled=1.8, resume=0.5), Settled(4.0, 1.5)]
    partial, final, silence = (json.loads(x) for x in native.send(told, lag=0.0123))
    assert partial == {
        "type": "partial",
        "segment": 0,
        "text": "after early",
        "words": [
            {"text": "after", "start": 0.64, "end": 0.8, "confidence": 0.875},
            {"text": "early", "start": 0.92, "end": 1.2, "confidence": 0.5},
        ],
        "lag_ms": 12,
    }
    times = {"start": 0.64, "end": 1.2, "speech_final": True, "settled": 28_800, "resume": 8000}
    assert final == partial | {"type": "final"} | times
    assert silence == {"type": "settled", "settled": 64_000, "resume": 24_000}
    assert native.send([Ended(2.5)]) == []
    (bye,) = (json.loads(x) for x in native.bye("ended", "all audio was recognised"))
    assert (bye["type"], bye["code"], bye["duration"]) == ("bye", "ended", 2.5)
    assert bye["limits"]["sessions"] == 100
    (error,) = (json.loads(x) for x in native.send([Failed("engine", "it broke")]))
    assert error == {"type": "error", "code": "engine", "message": "it broke"}


# ---- sherpa


def test_sherpa_needs_no_start_and_ends_with_done() -> None:
    sherpa = Sherpa(OFFER)
    (start,) = sherpa.open()
    assert start == Start(Options(encoding="f32le", latency_ms=320, head="transducer"))
    assert sherpa.receive(bytes(8)) == [Audio(bytes(8))]
    assert sherpa.receive("Done") == [Finish()]


def test_sherpa_messages_have_its_cpp_servers_form() -> None:
    sherpa = Sherpa(OFFER)
    (partial,) = (json.loads(x) for x in sherpa.send([PARTIAL]))
    assert partial == {
        "text": "after early",
        "tokens": [" after", " ear", "ly"],
        "timestamps": [0.64, 0.92, 1.0],
        "ys_probs": [-0.2, -0.1, -0.5],
        "lm_probs": [],
        "context_scores": [],
        "segment": 0,
        "words": [],
        "start_time": 0.0,
        "is_final": False,
        "is_eof": False,
    }
    (final,) = (json.loads(x) for x in sherpa.send([FINAL]))
    assert final == partial | {"is_final": True}
    second = Final(
        segment=1, text="x", words=(), tokens=(Token(" x", 3.2, 0.0),), start=3.2, end=3.3, speech_final=True
    )
    (last,) = (json.loads(x) for x in sherpa.send([second, Ended(4.0)]))
    assert (last["is_final"], last["is_eof"], last["segment"]) == (True, True, 1)
    assert (last["start_time"], last["timestamps"]) == (1.2, [2.0])
    assert sherpa.bye("ended", "") == ["Done!"]
    assert sherpa.bye("bad_audio", "") == []


def test_sherpa_ends_after_a_pause_with_an_empty_segment() -> None:
    sherpa = Sherpa(OFFER)
    sherpa.send([FINAL])
    (last,) = (json.loads(x) for x in sherpa.send([Ended(4.0)]))
    assert (last["text"], last["segment"], last["is_final"], last["is_eof"]) == ("", 1, True, True)


@pytest.mark.parametrize(("message", "code"), [("hello", 1003), (bytes(6), 1007)])
def test_sherpa_closes_with_a_reason(message: str | bytes, code: int) -> None:
    (close,) = Sherpa(OFFER).receive(message)
    assert isinstance(close, Close)
    assert close.code == code
    assert "float32" in close.reason


# ---- any text


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=60), st.lists(st.sampled_from(["partial", "final"]), max_size=4))
def test_any_text_can_be_sent(text: str, kinds: list[str]) -> None:
    text = text.encode(errors="replace").decode()
    word = (Word(text, 0.0, 1.0, 0.5),)
    events: list[Event] = [
        Partial(segment=0, text=text, words=word, tokens=())
        if kind == "partial"
        else Final(segment=0, text=text, words=word, tokens=(), start=0.0, end=1.0, speech_final=False)
        for kind in kinds
    ]
    for dialect in (started(), Sherpa(OFFER)):
        messages = [json.loads(x) for x in dialect.send(events)]
        assert [x["text"] for x in messages] == [text] * len(kinds)
