"""The forms of the messages of Deepgram and OpenAI."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from streaming.endpoint import Rules
from streaming.events import Ended, Heard, Options
from streaming.protocols import Action, Audio, Close, Finish, QueryError, Start
from streaming.protocols.deepgram import Deepgram
from streaming.protocols.openai import OpenAI
from streaming.protocols.openai_rest import Form, answer
from tests.streaming.test_dialects import SECOND, answers, said
from tests.streaming.test_protocols import FINAL, OFFER, PARTIAL

# ---- deepgram


def test_deepgrams_query() -> None:
    query = "encoding=mulaw&sample_rate=8000&channels=2&interim_results=true&endpointing=300&model=nova-3&punctuate=true"
    (start,) = Deepgram(OFFER, query).open()
    assert start == Start(
        Options(
            sample_rate=8000,
            encoding="mulaw",
            channels=2,
            latency_ms=320,
            head="transducer",
            endpointing=Rules(silence=0.3),
        )
    )
    (start,) = Deepgram(OFFER, "endpointing=false").open()
    assert isinstance(start, Start)
    assert (start.options.encoding, start.options.endpointing.silence) == ("container", None)
    assert not start.options.partials


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("encoding=linear16", "sample_rate is needed"),
        ("encoding=flac&sample_rate=16000", "encoding must be one of"),
        ("encoding=linear16&sample_rate=x", "whole number from 4000"),
        ("encoding=linear16&sample_rate=99999999999999", "whole number from 4000"),
        ("multichannel=true", "multichannel is not offered"),
        ("interim_results=yes", "true or false"),
        ("&".join(f"a{i}=1" for i in range(300)), "too many fields"),
    ],
)
def test_deepgram_refuses_a_query(query: str, words: str) -> None:
    with pytest.raises(QueryError, match=words) as error:
        Deepgram(OFFER, query)
    assert error.value.body["err_code"] == "Bad Request"


def test_deepgrams_messages() -> None:
    dialect = Deepgram(OFFER, "encoding=linear16&sample_rate=16000&utterance_end_ms=1000&vad_events=true")
    started, partial, final = said(dialect, PARTIAL, FINAL)
    assert started == {"type": "SpeechStarted", "channel": [0, 1], "timestamp": 0.64}
    assert (partial["is_final"], final["is_final"], final["speech_final"]) == (False, True, True)
    assert (final["start"], final["duration"]) == (0.0, 1.2)
    (alternative,) = final["channel"]["alternatives"]
    assert (alternative["transcript"], alternative["confidence"]) == ("after early", 0.6875)
    assert alternative["words"][0] == {
        "word": "after",
        "start": 0.64,
        "end": 0.8,
        "confidence": 0.875,
        "punctuated_word": "after",
    }
    assert dialect.wants_heard
    assert said(dialect, Heard(2.1)) == []
    assert said(dialect, Heard(2.3)) == [{"type": "UtteranceEnd", "channel": [0, 1], "last_word_end": 1.2}]
    assert said(dialect, Heard(9.0)) == []
    assert dialect.receive('{"type": "KeepAlive"}') == []
    assert dialect.receive('{"type": "Finalize"}') == [Finish(more=True), *dialect.open()]
    assert [x["from_finalize"] for x in said(dialect, SECOND, Ended(4.0)) if x["type"] == "Results"] == [True]
    (started, later) = said(dialect, FINAL)
    assert (started["timestamp"], later["channel"]["alternatives"][0]["words"][0]["start"]) == (4.64, 4.64)
    assert dialect.receive('{"type": "CloseStream"}') == [Finish()]
    assert said(dialect, Ended(2.0)) == []
    (metadata,) = (json.loads(x) for x in dialect.bye("ended", ""))
    assert (metadata["type"], metadata["duration"]) == ("Metadata", 6.0)


def test_deepgram_finalizes_silence_and_closes_with_nothing() -> None:
    dialect = Deepgram(OFFER, "encoding=linear16&sample_rate=16000")
    dialect.receive('{"type": "Finalize"}')
    (empty,) = said(dialect, Ended(1.0))
    assert (empty["from_finalize"], empty["channel"]["alternatives"][0]["transcript"]) == (True, "")
    assert dialect.receive(b"") == [Finish()]


@pytest.mark.parametrize("message", ["hello", "[]", '{"type": "Stop"}', '{"type": []}'])
def test_deepgrams_error(message: str) -> None:
    send, close = Deepgram(OFFER).receive(message)
    assert answers([send])[0]["type"] == "Error"
    assert isinstance(close, Close)


# ---- openai


def tell(dialect: OpenAI, kind: str, **fields: Any) -> list[Action]:
    return dialect.receive(json.dumps({"type": kind, **fields}))


def append(dialect: OpenAI, data: bytes) -> list[Action]:
    return tell(dialect, "input_audio_buffer.append", audio=base64.b64encode(data).decode())


def test_openai_with_turns() -> None:
    dialect = OpenAI(OFFER)
    (created,) = answers(dialect.open())
    assert (created["type"], created["session"]["type"]) == ("session.created", "transcription")
    start, audio = append(dialect, b"abc")
    assert (start, audio) == (
        Start(Options(sample_rate=24_000, latency_ms=320, head="transducer", endpointing=Rules(silence=0.5))),
        Audio(b"ab"),
    )
    assert append(dialect, b"d") == [Audio(b"cd")]
    heard = said(dialect, PARTIAL, FINAL, SECOND)
    assert [x["type"].removeprefix("input_audio_buffer.").rpartition(".")[2] for x in heard] == [
        "speech_started", "delta", "speech_stopped", "committed", "completed",
        "speech_started", "delta", "speech_stopped", "committed", "completed",
    ]  # fmt: skip
    assert (heard[0]["audio_start_ms"], heard[2]["audio_end_ms"]) == (340, 1200)
    assert len({x["item_id"] for x in heard[:5]}) == 1
    assert heard[8]["previous_item_id"] == heard[0]["item_id"]
    assert heard[4]["transcript"] == "after early"
    committed, finish = tell(dialect, "input_audio_buffer.commit")
    assert finish == Finish(more=True)
    (completed,) = said(dialect, Ended(4.0))
    assert completed["item_id"] == answers([committed])[0]["item_id"]
    (error,) = answers(tell(dialect, "input_audio_buffer.commit", event_id="e1"))
    assert (error["error"]["code"], error["error"]["event_id"]) == ("input_audio_buffer_commit_empty", "e1")
    append(dialect, b"ab")
    assert said(dialect, PARTIAL)[0]["audio_start_ms"] == 4340


def test_openais_log_probabilities_on_request() -> None:
    dialect = OpenAI(OFFER)
    tell(dialect, "session.update", session={"include": ["item.input_audio_transcription.logprobs"]})
    append(dialect, b"ab")
    assert said(dialect, FINAL)[-1]["logprobs"] == [
        {"token": " after", "logprob": -0.2, "bytes": list(b" after")},
        {"token": " ear", "logprob": -0.1, "bytes": list(b" ear")},
        {"token": "ly", "logprob": -0.5, "bytes": list(b"ly")},
    ]
    form = Form(file=b"x", log_probabilities=True)
    (kind, body), (_, without) = answer(form, [FINAL], 2.0), answer(Form(file=b"x"), [FINAL], 2.0)
    assert kind == "application/json" and json.loads(body)["logprobs"][2]["logprob"] == -0.5
    assert "logprobs" not in json.loads(without)


def test_openai_without_turns_and_clear() -> None:
    dialect = OpenAI(OFFER)
    form = {"format": {"type": "audio/pcmu"}, "turn_detection": None, "transcription": {"model": "x"}}
    (updated,) = answers(tell(dialect, "session.update", session={"audio": {"input": form}}))
    assert updated["session"]["audio"]["input"]["format"] == {"type": "audio/pcmu"}
    start, _ = append(dialect, b"a")
    assert isinstance(start, Start)
    assert (start.options.encoding, start.options.sample_rate) == ("mulaw", 8000)
    assert start.options.endpointing.silence is None
    assert [x["type"].rpartition(".")[2] for x in said(dialect, PARTIAL, FINAL)] == ["delta"]
    tell(dialect, "input_audio_buffer.commit")
    append(dialect, b"a")
    (completed,) = said(dialect, SECOND, Ended(1.0))[-1:]
    assert completed["transcript"] == "after early night"
    finish, cleared = tell(dialect, "input_audio_buffer.clear")
    assert finish == Finish(more=True)
    assert answers([cleared])[0]["type"] == "input_audio_buffer.cleared"
    assert said(dialect, FINAL, Ended(1.0)) == []


def test_openais_beta_form() -> None:
    dialect = OpenAI(OFFER)
    session = {"input_audio_format": "g711_alaw", "input_audio_transcription": {"model": "x"}}
    (updated,) = answers(tell(dialect, "transcription_session.update", session=session))
    assert updated["type"] == "transcription_session.updated"
    assert updated["session"]["input_audio_format"] == "g711_alaw"


@pytest.mark.parametrize(
    ("message", "param"),
    [
        (b"ab", None),
        ("hello", None),
        ('{"type": "response.create"}', "type"),
        ('{"type": "input_audio_buffer.append"}', "audio"),
        ('{"type": "input_audio_buffer.append", "audio": "*"}', "audio"),
        ('{"type": "session.update"}', "session"),
        ('{"type": "session.update", "session": {"type": "realtime"}}', "session.type"),
        ('{"type": "session.update", "session": {"audio": 3}}', "session.audio"),
        (
            '{"type": "session.update", "session": {"audio": {"input": {"format": {"type": "audio/mp3"}}}}}',
            "session.audio.input.format.type",
        ),
        ('{"type": "session.update", "session": {"include": ' + "[" * 400 + "]" * 400 + "}}", "session"),
    ],
)
def test_openais_error_goes_on(message: str | bytes, param: str | None) -> None:
    dialect = OpenAI(OFFER)
    (error,) = answers(dialect.receive(message))
    assert (error["type"], error["error"]["type"]) == ("error", "invalid_request_error")
    assert error["error"]["param"] == param
    assert append(dialect, b"ab")
