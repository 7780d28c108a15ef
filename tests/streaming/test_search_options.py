"""Searches chosen per session: what a session says is what offline decoding says, alone or among others."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest

from asr.audio import SAMPLE_RATE
from asr.model import Model
from asr.search.config import SearchConfig
from asr.transcribe import PhraseWarning
from models import small_model
from streaming.endpoint import Rules
from streaming.engine import TorchEngine
from streaming.events import Ended, Event, Final, Options, Partial, PhrasesRefused
from streaming.protocols import Limits, Offer, Send, Start
from streaming.protocols.native import Native
from streaming.scheduler import Scheduler
from streaming.session import run
from test_streaming_equals_offline import speech
from tests.streaming.toy_engine import packets, s16le

LATENCY = 290
BEAM = SearchConfig(kind="beam", beam=3, lag_frames=10)
SEARCHES = {
    "greedy": SearchConfig(),
    "penalty": SearchConfig(blank_penalty=2.0),
    "phrases": SearchConfig(phrases=("the fox", "lazy"), phrase_boost=3.0),
    "beam": BEAM,
    "beam and phrases": SearchConfig(
        kind="beam", beam=3, lag_frames=10, phrases=("box", "dog"), phrase_boost=3.0
    ),
    "wider": SearchConfig(kind="beam", beam=5),
}
RESCORING = SearchConfig(kind="rescoring", beam=3, ctc_weight=0.5, phrases=("box", "dog"))


@pytest.fixture(scope="module")
def model() -> Model:
    return small_model()


def text(events: list[Event]) -> str:
    return " ".join(event.text for event in events if isinstance(event, Final))


@pytest.mark.parametrize(
    ("head", "name"), [*product(["transducer", "ctc", "attention"], SEARCHES), ("attention", "rescoring")]
)
def test_a_session_says_what_transcription_says(model: Model, head: str, name: str) -> None:
    data = s16le(speech(3, 2.0))
    samples = np.frombuffer(data, "<i2").astype(np.float32) / 32768
    search = RESCORING if name == "rescoring" else SEARCHES[name]
    expected = model.transcribe(samples, latency_ms=LATENCY, head=head, search=search)
    options = Options(
        latency_ms=LATENCY, head=head, search=search, endpointing=Rules(silence=None, no_text=None)
    )
    for size in (3202,):
        events = list(run(TorchEngine(model), options, packets(data, size)))
        assert text(events) == expected.text and len(expected.text) > 5
        found = [word for event in events if isinstance(event, Final) for word in event.words]
        assert [(w.text, w.start, w.end, w.phrase) for w in found] == [
            (w.text, w.start, w.end, w.phrase) for w in expected.words
        ]


def test_partials_show_what_is_not_settled(model: Model) -> None:
    events = list(
        run(
            TorchEngine(model), Options(latency_ms=LATENCY, search=SEARCHES["wider"]), [s16le(speech(3, 4.0))]
        )
    )
    first = next(event for event in events if isinstance(event, Partial))
    assert min(token.time for token in first.tokens) < LATENCY / 1000 and isinstance(events[-1], Ended)


def test_mixed_sessions_share_an_engine_and_do_not_know_each_other(model: Model) -> None:
    scheduler, found = Scheduler(TorchEngine(model)), {name: list[Event]() for name in SEARCHES}
    data = {name: s16le(speech(i, 2.0)) for i, name in enumerate(SEARCHES)}
    for name, search in SEARCHES.items():
        scheduler.open(name, Options(latency_ms=LATENCY, search=search))
        scheduler.push(name, data[name], 0.0)
        scheduler.end(name, 0.0)
    steps = []
    while scheduler.ready:
        tick = scheduler.tick(0.0)
        steps.append(tick.streams)
        for result in tick.results:
            found[str(result.key)] += result.events
    assert max(steps) == 2  # greedy and penalty; beam and beam with phrases
    for name, search in SEARCHES.items():
        alone = list(run(TorchEngine(model), Options(latency_ms=LATENCY, search=search), [data[name]]))
        assert text(found[name]) == text(alone)


def test_tokens_are_settled_before_their_segment_ends(model: Model) -> None:
    """However slowly a beam settles by itself."""
    options = Options(
        latency_ms=LATENCY,
        search=SearchConfig(kind="beam", lag_frames=500),
        endpointing=Rules(silence=0.5, length=1.0),
    )
    samples = np.concatenate([speech(3, 1.5), np.zeros(SAMPLE_RATE, np.float32), speech(4, 1.5)])
    events = list(run(TorchEngine(model), options, [s16le(samples)]))
    finals = [event for event in events if isinstance(event, Final)]
    assert len(finals) > 1
    times = [time for event in finals for time in (event.start, event.end)]
    assert times == sorted(times)


def test_phrases_that_cannot_be_boosted_are_told(model: Model) -> None:
    search = SearchConfig(phrases=("fox", "Æther"))
    scheduler = Scheduler(TorchEngine(model))
    scheduler.open("a", Options(latency_ms=LATENCY, search=search))
    ((refused,),) = [result.events for result in scheduler.tick(0.0).results]
    assert isinstance(refused, PhrasesRefused) and [p.phrase for p in refused.phrases] == ["Æther"]
    with pytest.warns(PhraseWarning, match="Æther"):
        model.transcribe(speech(0, 0.5), search=search)
    native = Native(
        Offer(
            server="x",
            latencies=(290,),
            heads=("ctc",),
            default_latency=290,
            default_head="ctc",
            limits=Limits(),
        )
    )
    (message,) = native.send([refused])
    assert json.loads(message)["phrases"][0]["phrase"] == "Æther"


def test_start_of_the_native_protocol() -> None:
    def answer(**fields: object) -> list[object]:
        offer = Offer(
            server="x",
            latencies=(290,),
            heads=("ctc",),
            default_latency=290,
            default_head="ctc",
            limits=Limits(),
        )
        return list(Native(offer).receive(json.dumps({"type": "start", **fields})))

    start, echo = answer(phrases=["fox", "Dog"], search={"kind": "beam", "beam": 8, "phrase_boost": 2})
    assert isinstance(start, Start) and isinstance(echo, Send)
    assert start.options.search == SearchConfig(kind="beam", beam=8, phrase_boost=2, phrases=("fox", "Dog"))
    said = json.loads(echo.message)
    assert said["phrases"] == ["fox", "Dog"]
    assert said["search"] == {
        "kind": "beam", "lm": None, "lodr": None, "beam": 8, "blank_penalty": 0.0, "blank_skip": None, "lm_scale": 0.3,
        "word_bonus": 0.0, "lodr_scale": 0.1, "phrase_boost": 2, "phrase_margin": 3.0, "ctc_weight": 0.3,
        "reverse_weight": None, "length_bonus": 0.0, "end_threshold": None,
    }  # fmt: skip
    for fields, words in (
        ({"search": {"bean": 3}}, 'did you mean \\"beam\\"?'),
        ({"search": {"lm": "/etc/passwd"}}, "there are none"),
        ({"search": {"beam": 2.5}}, "a whole number"),
        ({"search": {"beam": 65}}, "from 1 to 64"),
        ({"search": {"kind": "quick"}}, "known: greedy, beam"),
        ({"search": 3}, "an object such as"),
        ({"phrases": "fox"}, "a list of up to"),
        ({"phrases": ["x" * 201]}, "a list of up to"),
    ):
        message = answer(**fields)[0]
        assert isinstance(message, Send) and words in message.message
