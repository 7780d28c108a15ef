"""The forms of the protocols' messages, and what they answer to what they do not know."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from asr.transcript import Word
from streaming.events import Ended, Event, Failed, Final, Options, Partial
from streaming.protocols import Action, Audio, Close, Dialect, Finish, Send, Start
from streaming.protocols.appended import Appended
from streaming.protocols.deepgram import Deepgram
from streaming.protocols.funasr import FunASR
from streaming.protocols.openai import OpenAI
from streaming.protocols.sherpa import SherpaPython
from streaming.protocols.vosk import Vosk
from streaming.protocols.wenet import Wenet
from streaming.protocols.whisperlive import WhisperLive
from tests.streaming.test_protocols import FINAL, OFFER, PARTIAL, WORDS

OPTIONS = Options(latency_ms=320, head="transducer")
LATER = (Word("night", 3.0, 3.4, 0.75),)
SECOND = Final(segment=1, text="night", words=LATER, tokens=(), start=3.0, end=3.4, speech_final=True)
SECOND_PARTIAL = Partial(segment=1, text="night", words=LATER, tokens=())


def said(dialect: Dialect, *events: Event) -> list[dict[str, Any]]:
    return [json.loads(x) for x in dialect.send(events)]


def answers(actions: Sequence[Action]) -> list[dict[str, Any]]:
    return [json.loads(x.message) for x in actions if isinstance(x, Send)]


def test_appended_texts() -> None:
    new = Appended()
    assert [new.partial("a"), new.partial("a b"), new.partial("a b c")] == ["a", " b", " c"]
    assert new.final("a b") == ""  # cut by length: c was said already
    assert [new.partial("c"), new.partial("cd"), new.final("cd e")] == ["", "d", " e"]
    assert [new.partial("f g"), new.partial("f h"), new.final("f h")] == [" f g", "", "h"]
    assert Appended().final("") == ""


def test_sherpas_python_server() -> None:
    sherpa = SherpaPython(OFFER)
    assert said(sherpa, PARTIAL, FINAL) == [{"text": "after early", "segment": 0}] * 2
    assert said(sherpa, Ended(1.0)) == []
    assert sherpa.bye("ended", "") == []


# ---- vosk


def test_vosk_answers_each_message_once() -> None:
    vosk = Vosk(OFFER)
    assert vosk.open() == []
    assert vosk.receive('{ "config" : { "sample_rate" : 16000.000000 } }') == []
    start, audio, answer = vosk.receive(b"ab")
    assert (start, audio, answer) == (Start(OPTIONS), Audio(b"ab"), Send('{"partial":""}'))
    assert said(vosk, PARTIAL) == []
    assert answers(vosk.receive(b"ab")) == [{"partial": "after early"}]
    assert said(vosk, FINAL, SECOND_PARTIAL) == []
    result = {
        "result": [
            {"conf": 0.875, "end": 0.8, "start": 0.64, "word": "after"},
            {"conf": 0.5, "end": 1.2, "start": 0.92, "word": "early"},
        ],
        "text": "after early",
    }
    assert answers(vosk.receive(b"ab")) == [result]
    assert answers(vosk.receive(b"ab")) == [{"partial": ""}]
    assert vosk.receive('{"eof" : 1}') == [Finish()]
    assert said(vosk, FINAL, SECOND, Ended(4.0))[0]["text"] == "after early night"


def test_vosk_options_and_reset() -> None:
    vosk = Vosk(OFFER)
    vosk.receive(
        '{"config": {"words": 0, "max_alternatives": 3, "sample_rate": 8000, "model": "/etc/passwd"}}'
    )
    assert vosk.receive(b"ab")[0] == Start(Options(sample_rate=8000, latency_ms=320, head="transducer"))
    assert vosk.receive('{"reset": 1}') == [Finish(more=True)]
    assert said(vosk, FINAL, Ended(1.0)) == [{"alternatives": [{"confidence": 1.0, "text": "after early"}]}]
    assert isinstance(vosk.receive(b"ab")[0], Start)
    assert Vosk(OFFER).receive('{"eof": 1}')[1:] == [Finish()]


@pytest.mark.parametrize(
    "message", ["hello", "[]", "{}", '{"config": {"sample_rate": 1}}', '{"config": {"sample_rate": "x"}}']
)
def test_vosk_closes_with_a_reason(message: str) -> None:
    (close,) = Vosk(OFFER).receive(message)
    assert isinstance(close, Close) and close.reason


# ---- wenet


def test_wenet() -> None:
    wenet = Wenet(OFFER)
    start, ready = wenet.receive('{"signal": "start", "nbest": 1, "continuous_decoding": true}')
    assert (start, answers([ready])) == (Start(OPTIONS), [{"status": "ok", "type": "server_ready"}])
    partial, final = said(wenet, PARTIAL, FINAL)
    assert partial == {"status": "ok", "type": "partial_result", "nbest": '[{"sentence": "after early"}]'}
    assert json.loads(final["nbest"])[0]["word_pieces"] == [
        {"word": "after", "start": 640, "end": 800},
        {"word": "early", "start": 920, "end": 1200},
    ]
    assert wenet.receive('{"signal": "end"}') == [Finish()]
    assert [x["type"] for x in said(wenet, SECOND, Ended(4.0))] == ["final_result", "speech_end"]


def test_wenet_stops_at_the_first_pause() -> None:
    wenet = Wenet(OFFER)
    wenet.receive('{"signal": "start"}')
    cut = Final(segment=0, text="a", words=WORDS, tokens=(), start=0.0, end=1.0, speech_final=False)
    heard = said(wenet, cut, SECOND_PARTIAL, SECOND, FINAL, Ended(4.0))
    assert [x["type"] for x in heard] == ["partial_result", "final_result", "speech_end"]
    assert json.loads(heard[1]["nbest"])[0]["sentence"] == "a night"
    assert wenet.receive(b"ab") == []
    assert wenet.receive('{"signal": "end"}') == [Finish()]
    assert said(wenet, Ended(4.0)) == []


def test_wenet_of_silence() -> None:
    wenet = Wenet(OFFER)
    wenet.receive('{"signal": "start"}')
    assert [x["type"] for x in said(wenet, Ended(1.0))] == ["final_result", "speech_end"]


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (b"ab", "Start signal is expected before binary data"),
        ("hello", "Wrong message header"),
        ('{"signal": "strat"}', "Unexpected signal type"),
        ('{"signal": "end"}', "without a start"),
        ('{"signal": "start", "nbest": "1"}', "integer is expected"),
        ('{"signal": "start", "continuous_decoding": 1}', "boolean"),
    ],
)
def test_wenets_error(message: str | bytes, words: str) -> None:
    send, close = Wenet(OFFER).receive(message)
    (error,) = answers([send])
    assert error["status"] == "failed" and words in error["message"]
    assert isinstance(close, Close)


# ---- funasr


def funasr(mode: str = "2pass", **fields: Any) -> FunASR:
    dialect = FunASR(OFFER)
    assert dialect.receive(json.dumps({"mode": mode, "wav_name": "h5", "is_speaking": True} | fields)) == []
    return dialect


def test_funasr_in_two_passes() -> None:
    dialect = funasr(audio_fs=8000)
    assert dialect.receive(b"ab")[0] == Start(Options(sample_rate=8000, latency_ms=320, head="transducer"))
    online, offline = said(dialect, PARTIAL, FINAL)
    assert online == {"mode": "2pass-online", "text": "after early", "wav_name": "h5", "is_final": False}
    assert offline == {
        "mode": "2pass-offline",
        "text": "after early",
        "wav_name": "h5",
        "is_final": False,
        "timestamp": "[[640, 800], [920, 1200]]",
        "stamp_sents": [
            {
                "text_seg": "after early",
                "punc": "",
                "start": 640,
                "end": 1200,
                "ts_list": [[640, 800], [920, 1200]],
            }
        ],
    }
    assert dialect.receive('{"is_speaking": false, "is_end": true}') == [Finish(more=True)]
    second = said(dialect, SECOND_PARTIAL, SECOND, Ended(4.0))
    assert [(x["text"], x["is_final"]) for x in second] == [
        (" night", False),
        (" night", False),
        ("", True),
        ("", True),
    ]
    assert "is_end" not in second[2] and second[3]["is_end"]


def test_funasr_online_and_offline_and_again() -> None:
    dialect = funasr("online")
    dialect.receive(b"ab")
    assert [x["text"] for x in said(dialect, PARTIAL, FINAL, SECOND)] == ["after early", " night"]
    assert dialect.receive('{"is_speaking": false}') == [Finish(more=True)]
    dialect.receive('{"mode": "offline", "wav_name": "next", "wav_format": "webm"}')
    start, _ = dialect.receive(b"ab")
    assert isinstance(start, Start)
    assert (start.options.encoding, start.options.partials) == ("container", False)
    assert [(x["mode"], x["wav_name"]) for x in said(dialect, Ended(1.0))] == [("online", "h5")]
    (message,) = said(dialect, FINAL, SECOND, Ended(4.0))
    assert (message["mode"], message["text"], message["is_final"]) == ("offline", "after early night", True)
    assert len(message["stamp_sents"]) == 2


@pytest.mark.parametrize(
    "message",
    [b"ab", "hello", '{"mode": "3pass"}', '{"audio_fs": "x"}', '{"audio_fs": 1}', '{"wav_name": 3}'],
)
def test_funasrs_error(message: str | bytes) -> None:
    send, close = FunASR(OFFER).receive(message)
    (error,) = answers([send])
    assert error["is_end"] and error["error"] and not error["is_final"]
    assert isinstance(close, Close)


# ---- whisperlive


def test_whisperlive() -> None:
    dialect = WhisperLive(OFFER)
    options = {
        "uid": "c1",
        "send_last_n_segments": 2,
        "word_timestamps": True,
        "audio_format": "int16",
        "x": 1,
    }
    start, ready = dialect.receive(json.dumps(options))
    assert start == Start(OPTIONS)
    assert answers([ready]) == [{"uid": "c1", "message": "SERVER_READY", "backend": "faster_whisper"}]
    words = [
        {"word": " after", "start": "0.640", "end": "0.800", "probability": 0.875},
        {"word": " early", "start": "0.920", "end": "1.200", "probability": 0.5},
    ]
    first = {"start": "0.640", "end": "1.200", "text": " after early", "completed": False, "words": words}
    assert said(dialect, PARTIAL) == [{"uid": "c1", "segments": [first]}]
    one, two, three = said(dialect, FINAL, SECOND_PARTIAL, SECOND)
    assert one["segments"] == [first | {"completed": True}]
    assert [x["completed"] for x in two["segments"]] == [True, False]
    assert [x["text"] for x in three["segments"]] == [" after early", " night"]
    assert len(said(dialect, FINAL)[0]["segments"]) == 2
    assert dialect.receive(b"END_OF_AUDIO") == [Finish()]
    assert dialect.bye("ended", "") == []
    assert json.loads(dialect.bye("idle", "")[0]) == {"uid": "c1", "message": "DISCONNECT"}


@pytest.mark.parametrize(
    "message",
    [
        b"ab",
        "x",
        "{}",
        '{"uid": 3}',
        '{"uid": "a", "audio_format": "mp3"}',
        '{"uid": "a", "send_last_n_segments": 0}',
    ],
)
def test_whisperlives_error(message: str | bytes) -> None:
    send, close = WhisperLive(OFFER).receive(message)
    assert answers([send])[0]["status"] == "ERROR"
    assert isinstance(close, Close)


# ---- all


@pytest.mark.parametrize("kind", [Wenet, FunASR, WhisperLive, Deepgram, OpenAI])
def test_failures_are_told(kind: type[Any]) -> None:
    (message,) = said(kind(OFFER), Failed("bad_audio", "why and what to do"))
    assert "why and what to do" in json.dumps(message)
