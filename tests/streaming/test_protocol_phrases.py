"""Each protocol's own field for phrases, down to the search of its session."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest

from streaming.protocols import Close, Dialect, QueryError, Send, Start
from streaming.protocols.deepgram import Deepgram
from streaming.protocols.funasr import FunASR
from streaming.protocols.native import Native
from streaming.protocols.openai import OpenAI
from streaming.protocols.openai_rest import RestError, parse_form
from streaming.protocols.phrases import mapped, prompted, tidy, weighted
from streaming.protocols.vosk import Vosk
from streaming.protocols.whisperlive import WhisperLive
from tests.streaming.test_protocols import OFFER

DEEPGRAM = "encoding=linear16&sample_rate=16000&"


def realtime(transcription: Any) -> str:
    session = {"type": "transcription", "audio": {"input": {"transcription": transcription}}}
    return json.dumps({"type": "session.update", "session": session})


APPEND = json.dumps({"type": "input_audio_buffer.append", "audio": "AAAA"})
SAID: dict[str, tuple[type[Dialect], str, list[str | bytes], tuple[str, ...]]] = {
    "native": (Native, "", ['{"type": "start", "phrases": ["Grace Hopper", "Rill"]}'], ("Grace Hopper", "Rill")),
    "vosk": (Vosk, "", ['{"config": {"phrase_list": ["zero one", "three", "[unk]"]}}', b"ab"], ("zero one", "three")),
    "funasr, weights": (FunASR, "", ['{"mode": "online", "hotwords": "{\\"阿里巴巴\\": 20, \\"Rill\\": 30}"}', b"ab"], ("阿里巴巴", "Rill")),
    "funasr, words": (FunASR, "", ['{"mode": "offline", "hotwords": "Rill Hopper"}', '{"is_speaking": true}', b"ab"], ("Rill", "Hopper")),
    "whisperlive": (WhisperLive, "", ['{"uid": "c", "hotwords": "Grace Hopper, Rill,"}'], ("Grace Hopper", "Rill")),
    "deepgram, keyterm": (Deepgram, f"{DEEPGRAM}keyterm={quote('Grace Hopper')}&keyterm=Rill", [], ("Grace Hopper", "Rill")),
    "deepgram, keywords": (Deepgram, f"{DEEPGRAM}keywords=Hopper:2.5&keywords=Rill&keywords=no:-1", [], ("Hopper", "Rill")),
    "openai, keywords": (OpenAI, "", [realtime({"keywords": ["Rill", "Rill"]}), APPEND], ("Rill",)),
    "openai, prompt": (OpenAI, "", [realtime({"prompt": "Grace Hopper, Rill."}), APPEND], ("Grace Hopper", "Rill")),
    "openai, sentence": (OpenAI, "", [realtime({"prompt": "Expect words of technology."}), APPEND], ()),
}  # fmt: skip


@pytest.mark.parametrize("name", SAID)
def test_phrases_reach_the_search(name: str) -> None:
    kind, query, messages, phrases = SAID[name]
    dialect = kind(OFFER, query)  # type: ignore[call-arg]
    actions = [*dialect.open(), *(action for message in messages for action in dialect.receive(message))]
    (start,) = [action for action in actions if isinstance(action, Start)]
    assert start.options.search.phrases == phrases


MANY = ["x"] * 2001
WRONG: dict[str, tuple[type[Dialect], list[str]]] = {
    "vosk": (Vosk, [json.dumps({"config": {"phrase_list": x}}) for x in ("Rill", [1], MANY, ["x" * 201])]),
    "funasr": (FunASR, [json.dumps({"hotwords": x}) for x in (3, ["Rill"], " ".join(MANY))]),
    "whisperlive": (WhisperLive, [json.dumps({"uid": "c", "hotwords": x}) for x in (3, ",".join(MANY))]),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_list_of_phrases_is_refused(name: str) -> None:
    kind, messages = WRONG[name]
    for message in messages:
        close = kind(OFFER).receive(message)[-1]  # type: ignore[call-arg]
        assert isinstance(close, Close) and "2000 texts" in close.reason


def test_openais_and_deepgrams_refusals() -> None:
    for transcription in ({"keywords": "Rill"}, {"keywords": MANY}, {"prompt": 3}):
        (answer,) = OpenAI(OFFER).receive(realtime(transcription))
        assert isinstance(answer, Send) and json.loads(answer.message)["error"]["param"].startswith(
            "session.audio.input.transcription."
        )
    with pytest.raises(QueryError, match="keyterm and keywords"):
        Deepgram(OFFER, f"{DEEPGRAM}keyterm={'x' * 201}")


def form(**fields: bytes) -> bytes:
    parts = {"file": b"audio"} | fields
    head = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
    return b"".join(head % (name.encode(), data) for name, data in parts.items()) + b"--b--\r\n"


def test_rest() -> None:
    kind = "multipart/form-data; boundary=b"
    asked = parse_form(kind, form(prompt=b"Hopper, Zipformer", **{"keywords[]": b"Rill"}))
    assert asked.phrases == ("Rill", "Hopper", "Zipformer")
    assert parse_form(kind, form()).phrases == ()
    with pytest.raises(RestError, match="keywords must be"):
        parse_form(kind, form(**{"keywords[]": b"x" * 201}))


def test_forms() -> None:
    assert [weighted(x) for x in ("a", "a:2", "a:-2.5", "a:b", "a b:1.5", ":", "10:30")] == [
        "a", "a", "", "a:b", "a b", ":", "10",
    ]  # fmt: skip
    assert mapped("") == [] and mapped("[1]") == ["[1]"] and mapped('{"a b": 1}') == ["a b"]
    assert prompted("one, two three four five six seven, \nRill;") == ["one", "Rill"]
    assert tidy([" a ", "", "a"]) == ("a",)
