"""Language models that a session chooses by name: what it then says, and what names can do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from asr.errors import ConfigError
from asr.heads.predictors import LSTMConfig
from asr.language_model.neural import NeuralLM
from asr.model import Model
from asr.search.config import SearchConfig
from models import small_model
from streaming.client import Summary, start_fields, stream
from streaming.engine import TorchEngine
from streaming.engines import load_engines
from streaming.events import Ended, Event, Final, Options
from streaming.protocols import Finish, Send, Start, Update
from streaming.protocols.native import Native
from streaming.scheduler import Scheduler
from streaming.server import Server, Settings
from streaming.settings import offer
from test_streaming_equals_offline import speech
from tests.streaming.serving import fetch
from tests.streaming.toy_engine import s16le

LATENCY = 290
BEAM: dict[str, Any] = {"kind": "beam", "beam": 3}


@pytest.fixture(scope="module")
def model() -> Model:
    return small_model()


@pytest.fixture(scope="module")
def files(model: Model, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An n-gram of tokens, one of words, and a neural model."""
    folder, tokenizer = tmp_path_factory.mktemp("lms"), model.tokenizer
    pieces = [tokenizer.piece(i) for i in range(2, tokenizer.size, 3)]
    for name, words in {"tokens": pieces, "words": ["THE", "FOX", "A"]}.items():
        lines = [f"-{1 + i % 5}.5\t{word}\t0" for i, word in enumerate(["<unk>", "<s>", *words])]
        lines = [f"\\data\\\nngram 1={len(lines) + 1}\n\n\\1-grams:", *lines, "-1\t</s>\n\n\\end\\\n"]
        (folder / name).write_text("\n".join(lines), encoding="utf-8")
    torch.manual_seed(0)
    neural = NeuralLM(LSTMConfig(dim=6), tokenizer)
    with torch.no_grad():
        neural.output.weight *= 6
    neural.save(folder / "neural")
    return {name: str(folder / name) for name in ("tokens", "words", "neural")}


@pytest.fixture(scope="module")
def engine(model: Model, files: dict[str, str]) -> TorchEngine:
    return TorchEngine(model, language_models=files)


SEARCHES: dict[str, dict[str, Any]] = {
    "none": BEAM,
    "tokens": BEAM | {"lm": "tokens", "lm_scale": 1.0},
    "words": BEAM | {"lm": "words", "lm_scale": 2.0, "word_bonus": 1.0},
    "neural": BEAM | {"lm": "neural", "lm_scale": 1.5},
    "neural, lighter": BEAM | {"lm": "neural", "lm_scale": 0.2},
    "lodr": BEAM | {"lm": "neural", "lm_scale": 1.5, "lodr": "tokens", "lodr_scale": 0.5},
}


def with_files(search: dict[str, Any], files: dict[str, str]) -> SearchConfig:
    return SearchConfig(**search | {x: files[search[x]] for x in ("lm", "lodr") if x in search})


@asynccontextmanager
async def serving(engine: TorchEngine, **settings: Any) -> AsyncIterator[Server]:
    async with asyncio.timeout(60), Server(engine, Settings(port=0, **settings)) as server:
        yield server


async def said(server: Server, samples: np.ndarray, **options: Any) -> str:
    rules = {"silence": None, "no_text": None}
    async for event in stream(
        samples, server.url, realtime=False, latency_ms=LATENCY, options=options | {"endpointing": rules}
    ):
        if isinstance(event, Summary):
            return event.text
    raise AssertionError("no summary")


def test_sessions_say_what_transcription_says(
    model: Model, engine: TorchEngine, files: dict[str, str]
) -> None:
    """All at the same time, over sockets."""
    samples = np.frombuffer(s16le(speech(3, 2.0)), "<i2").astype(np.float32) / 32768

    async def test() -> list[str]:
        async with serving(engine) as server:
            metrics = (await fetch(server, "/metrics"))[1]
            assert (await fetch(server, "/ready"))[0] == 200 and files["words"] not in metrics
            sessions = [
                said(server, samples, **start_fields(head, x))
                for x in SEARCHES.values()
                for head in model.heads
                if head != "attention"
            ]
            return await asyncio.gather(*sessions)

    expected = [
        model.transcribe(samples, latency_ms=LATENCY, head=head, search=with_files(x, files)).text
        for x in SEARCHES.values()
        for head in model.heads
        if head != "attention"
    ]
    assert asyncio.run(test()) == expected
    assert len(set(expected)) > len(SEARCHES)  # each counts for one head at least


def test_a_server_has_a_search_of_its_own(model: Model, engine: TorchEngine, files: dict[str, str]) -> None:
    samples = np.frombuffer(s16le(speech(3, 2.0)), "<i2").astype(np.float32) / 32768
    search = SearchConfig(**SEARCHES["neural"])

    async def test() -> tuple[str, str]:
        async with serving(engine, search=search) as server:
            return await said(server, samples), await said(server, samples, search={"kind": "greedy"})

    found = asyncio.run(test())
    assert (
        found[0]
        == model.transcribe(samples, latency_ms=LATENCY, search=with_files(SEARCHES["neural"], files)).text
    )
    assert found[1] == model.transcribe(samples, latency_ms=LATENCY).text
    with pytest.raises(ConfigError, match="search.lm: no 'news' here; there is tokens, words, neural"):
        offer(engine, Settings(search=SearchConfig(kind="beam", lm="news")))


def refusal(dialect: Native, **fields: Any) -> str:
    send, _ = dialect.receive(json.dumps({"type": "start", **fields}))
    assert isinstance(send, Send)
    return str(json.loads(send.message)["message"])


def test_only_names_are_known(engine: TorchEngine, files: dict[str, str]) -> None:
    known = offer(engine, Settings())
    hello = json.loads(Native(known).open()[0].message)  # type: ignore[union-attr]
    assert hello["language_models"] == ["tokens", "words", "neural"] and hello["bigrams"] == ["tokens"]
    assert hello["searches"]["ctc"] == ["greedy", "beam"]
    assert hello["search"]["blank_skip"] == {"min": 0.5, "max": 1} and files["words"] not in json.dumps(hello)
    for search, words in (
        ({"lm": files["words"]}, "known: tokens, words, neural"),
        ({"lm": "word"}, 'did you mean "words"?'),
        ({"lm": [{}]}, "known: tokens"),
        ({"lodr": "neural", "lm": "neural"}, "known: tokens"),
        ({"lm_scale": 21}, "from 0 to 20"),
        ({"kind": "rescoring"}, 'search.kind is "rescoring"; known: greedy, beam'),
    ):
        assert words in refusal(Native(known), head="ctc", search=BEAM | search)
    assert "set search.kind to beam" in refusal(Native(known), search={"lm": "words"})
    with pytest.raises(ConfigError, match="no 'secret' here"):
        engine.search(SearchConfig(kind="beam", lm="secret"))


def test_updates(engine: TorchEngine) -> None:
    """What only weighs holds from the next step on; another language model begins with its own hypotheses."""
    dialect = Native(offer(engine, Settings()))
    dialect.receive(json.dumps({"type": "start", "search": SEARCHES["tokens"], "phrases": ["fox"]}))

    def update(**search: Any) -> tuple[list[type], SearchConfig]:
        actions = dialect.receive(json.dumps({"type": "update", "search": search}))
        (options,) = [action.options for action in actions if isinstance(action, Start | Update)]
        return [type(action) for action in actions], options.search

    assert update(lm_scale=0.5) == (
        [Update, Send],
        SearchConfig(**SEARCHES["tokens"] | {"lm_scale": 0.5}, phrases=("fox",)),
    )
    kinds, found = update(lm="neural")
    assert kinds == [Finish, Start, Send] and (found.lm, found.lm_scale, found.phrases) == (
        "neural",
        0.5,
        ("fox",),
    )
    assert update(lm=None)[1].lm is None
    assert update(kind="greedy", phrase_margin=1.0)[1].kind == "greedy"


def test_a_scale_changes_while_a_word_is_said(engine: TorchEngine) -> None:
    """No audio is lost, and the hypotheses go on: the second half is scored with the new scale."""
    data, half = s16le(speech(3, 3.0)), len(s16le(speech(3, 3.0))) // 2 // 2 * 2
    options = Options(latency_ms=LATENCY, search=SearchConfig(**SEARCHES["neural"]))

    def text(**change: Any) -> tuple[str, float]:
        scheduler, events = Scheduler(engine), list[Event]()

        def steps() -> None:
            while scheduler.ready:
                events.extend(event for result in scheduler.tick(0.0).results for event in result.events)

        scheduler.open("a", options)
        scheduler.push("a", data[:half], 0.0)
        steps()
        scheduler.update("a", replace(options, search=replace(options.search, **change)))
        scheduler.push("a", data[half:], 0.0)
        scheduler.end("a", 0.0)
        steps()
        ended = events[-1]
        assert isinstance(ended, Ended)
        return " ".join(x.text for x in events if isinstance(x, Final)), ended.duration

    plain, changed = text(), text(lm_scale=0.0)
    assert plain[1] == changed[1] == pytest.approx(3.0)
    assert plain[0] != changed[0] and plain[0].split()[:2] == changed[0].split()[:2]


def test_language_models_of_a_command_line(model: Model, files: dict[str, str], tmp_path: Path) -> None:
    path = str(model.save(tmp_path / "en"))
    models = [f"en={path}", f"de={path}"]
    found = load_engines(models, language_models=[f"both={files['words']}", f"de:own={files['neural']}"])
    assert {name: one.language_models for name, one in found.items()} == {
        "en": ("both",),
        "de": ("both", "own"),
    }
    for texts, words in (
        (["words.arpa"], "write it as NAME=PATH"),
        (["fr:a=b"], "no model 'fr'; there is en, de"),
        ([f"a={files['words']}", f"en:a={files['words']}"], "two of en are named a"),
    ):
        with pytest.raises(ConfigError, match=words):
            load_engines(models, language_models=texts)


def test_the_options_of_a_stream_are_the_protocols() -> None:
    assert start_fields(None, {}) == {}
    found = start_fields("ctc", {"kind": "beam", "lm": "news", "phrases": ("a", "b")})
    assert found == {"head": "ctc", "phrases": ["a", "b"], "search": {"kind": "beam", "lm": "news"}}
    assert Options().search == SearchConfig()
