"""Options that change while a stream runs, and models that a client chooses: from the message to the text."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from websockets.asyncio.client import connect

from asr.transcript import Word
from streaming.endpoint import Rules
from streaming.events import Ended, Event, Final, Options, Partial
from streaming.protocols import Finish, Limits, Offer, Send, Start, Update
from streaming.protocols.native import Native
from streaming.server import Server
from streaming.session import Session
from tests.streaming.serving import END, START, TALK, WANTED, fetch, finals, serve, talk
from tests.streaming.toy_engine import ToyEngine, packets, s16le, silence, speech

ENGLISH = Offer(
    server="rill",
    model="en",
    latencies=(160, 320),
    heads=("ctc",),
    default_latency=320,
    default_head="ctc",
    limits=Limits(),
)
GERMAN = Offer(
    server="rill",
    model="de",
    latencies=(640,),
    heads=("transducer",),
    default_latency=640,
    default_head="transducer",
    limits=Limits(),
)
BOTH = Offer(**{**vars(ENGLISH), "others": (GERMAN,)})


def native(**fields: Any) -> Native:
    dialect = Native(BOTH)
    dialect.receive(json.dumps({"type": "start", **fields}))
    return dialect


def update(dialect: Native, **fields: Any) -> list[Any]:
    return list(dialect.receive(json.dumps({"type": "update", **fields})))


def error(actions: list[Any]) -> str:
    return str(json.loads(actions[0].message).get("message", ""))


def said(session: Session, engine: ToyEngine, data: bytes) -> list[Event]:
    found: list[Event] = []
    for packet in packets(data, 3200):
        session.push(packet)
        while session.ready:
            samples, _ = session.take()
            found += session.accept(*engine._stream(samples, session.state))
    return found


# ---- the session


def test_rules_and_what_is_told_change_in_the_running_stream() -> None:
    engine = ToyEngine()
    options = Options(latency_ms=160, endpointing=Rules(silence=None), partials=False, words=False)
    session = Session(engine, options)
    before = said(
        session, engine, s16le(np.concatenate([speech(1, frames=4), silence(1.5), speech(2, 5, frames=8)]))
    )
    assert before == []
    session.update(Options(latency_ms=640, endpointing=Rules(silence=0.5), confidence=False))
    after = said(session, engine, s16le(np.concatenate([speech(3, frames=4), silence(1)])))
    partials = [x for x in after if isinstance(x, Partial)]
    assert partials and partials[-1].words
    assert [x.text for x in after if isinstance(x, Final)] == ["one two five three"]
    assert session.options.latency_ms == 160 and not session.options.confidence


def test_partials_come_at_their_interval_and_the_last_is_not_lost() -> None:
    engine = ToyEngine()
    session = Session(engine, Options(latency_ms=160, partial_interval=0.9, endpointing=Rules(silence=None)))
    found = said(session, engine, s16le(np.concatenate([speech(*[1, 2] * 12, frames=3), silence(1.5)])))
    partials = [x for x in found if isinstance(x, Partial)]
    assert 3 <= len(partials) <= 5
    assert partials[-1].text.split() == ["one", "two"] * 12


# ---- the messages


def test_what_does_not_touch_the_recogniser_is_an_update() -> None:
    dialect = native(endpointing={"silence": 2.0, "length": 30}, phrases=["fox"])
    action, told = update(dialect, endpointing={"silence": 0.5}, words=False, partial_interval=0.5)
    assert isinstance(action, Update) and isinstance(told, Send)
    assert action.options.endpointing == Rules(silence=0.5, length=30)
    assert action.options.search.phrases == ("fox",) and not action.options.words
    message = json.loads(told.message)
    assert (message["type"], message["partial_interval"], message["phrases"]) == ("updated", 0.5, ["fox"])


@pytest.mark.parametrize(
    "fields", [{"latency_ms": 160}, {"phrases": ["fox"]}, {"search": {"kind": "beam"}}, {"model": "de"}]
)
def test_what_does_begins_the_recogniser_afresh(fields: dict[str, Any]) -> None:
    dialect = native(words=False)
    finish, start, told = update(dialect, **fields)
    assert finish == Finish(more=True) and isinstance(start, Start) and isinstance(told, Send)
    assert not start.options.words
    assert json.loads(told.message)["model"] == fields.get("model", "en")
    assert start.options.latency_ms == {"latency_ms": 160, "model": 640}.get(next(iter(fields)), 320)
    assert isinstance(update(dialect, words=True)[0], Update)


def test_updates_that_cannot_be() -> None:
    assert "send start first" in error(update(Native(BOTH), words=True))
    assert "cannot change within a stream" in error(update(native(), sample_rate=8000))
    assert "of a container only" in error(update(native(encoding="container"), latency_ms=160))
    assert 'did you mean \\"words\\"' in update(native(), word=True)[0].message
    assert "one of en, de" in error(update(native(), model="../secret"))
    assert "one of 640" in error(update(native(model="de"), latency_ms=320))
    assert "up to 60" in error(update(native(), partial_interval=61))


def test_hello_names_the_models() -> None:
    (send,) = Native(BOTH).open()
    assert isinstance(send, Send)
    hello = json.loads(send.message)
    assert [x["model"] for x in hello["models"]] == ["en", "de"]
    assert hello["models"][1]["latencies_ms"] == [640] and hello["model"] == "en"


def test_confidence_may_be_left_out_and_times_go_on_after_an_update() -> None:
    dialect = native(confidence=False)
    word = Word("a", 1.0, 1.5, 0.5)
    first = Final(segment=0, text="a", words=(word,), tokens=(), start=1.0, end=1.5, speech_final=True)
    (message,) = dialect.send([first, Ended(10.0)])
    assert json.loads(message)["words"] == [{"text": "a", "start": 1.0, "end": 1.5}]
    (message,) = dialect.send([first])
    later = json.loads(message)
    assert (later["segment"], later["start"], later["words"][0]["end"]) == (1, 11.0, 11.5)
    assert json.loads(dialect.bye("ended", "")[0])["duration"] == 10.0


def test_models_are_found_by_name_or_language() -> None:
    assert BOTH.named("nova-3", "de").names == ("de", "en")
    assert BOTH.named("whisper-1", None, 3, []).names == BOTH.names == ("en", "de")
    assert BOTH.named("de").options().latency_ms == 640


# ---- the socket


def test_a_stream_that_changes_its_latency_loses_nothing() -> None:
    data = s16le(TALK)
    for model in ("de", "en"):

        async def test(server: Server, model: str = model) -> None:
            change = json.dumps({"type": "update", "model": model, "latency_ms": 640})
            messages = [START, *packets(data, 3200), change, *packets(data, 3200), END]
            heard, code, _ = await talk(server.url, messages)
            assert (finals(heard), code) == (WANTED * 2, 1000)
            assert [x["type"] for x in heard].count("updated") == 1
            starts = [word["start"] for x in heard if x["type"] == "final" for word in x["words"]]
            assert starts == sorted(starts) and starts[-1] > len(TALK) / 16_000
            assert [x["segment"] for x in heard if x["type"] == "final"] == [0, 1, 2, 3]
            assert heard[-1]["duration"] == pytest.approx(2 * len(TALK) / 16_000, abs=1e-3)

        serve(test, {"en": ToyEngine(), "de": ToyEngine()})


def test_endpointing_changes_while_speech_goes_on() -> None:
    async def test(server: Server) -> None:
        never = json.dumps({"type": "start", "endpointing": {"silence": None, "no_text": None}})
        async with connect(server.url) as client:
            await client.send(never)
            await client.send(s16le(np.concatenate([TALK, TALK])))
            while json.loads(await client.recv()).get("text", "").count("seven") < 2:
                pass
            await client.send('{"type": "update", "endpointing": {"silence": 0.2}}')
            await client.send(s16le(np.concatenate([silence(0.5), TALK])))
            await client.send(END)
            heard = [json.loads(x) async for x in client]
        assert finals(heard) == [" ".join(WANTED * 2), *WANTED]

    serve(test)


def test_clients_choose_among_models_by_start_query_and_language() -> None:
    engines = {"en": ToyEngine(), "de": ToyEngine(latencies=(640,))}

    async def test(server: Server) -> None:
        audio = [s16le(TALK), END]
        assert finals((await talk(server.url, ['{"type": "start", "model": "de"}', *audio]))[0]) == WANTED
        assert engines["de"].batches[-1:] == [1]
        steps = len(engines["en"].batches)
        assert finals((await talk(server.url + "?language=de", [START, *audio]))[0]) == WANTED
        assert len(engines["en"].batches) == steps
        names = [x["id"] for x in json.loads((await fetch(server, "/v1/models"))[1])["data"]]
        assert names == ["en", "de"]

    serve(test, engines)
