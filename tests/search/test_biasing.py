"""Phrases on recorded speech: words in the list are found more often, and a thousand others do next to no harm."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import numpy as np
import pytest

import asr
from asr.audio import read
from asr.evaluate import count_errors
from asr.model import Model
from asr.search.config import SearchConfig
from asr.transcribe import transcribe_files
from asr.transcript import Transcript

RARE = (
    "ace",
    "six",
    "left",
    "stop",
    "king",
    "eight",
    "queen",
)  # greedy CTC misses two of five of each, or more


@pytest.fixture(scope="module")
def model() -> Model:
    return asr.load("data/models/mini")


@pytest.fixture(scope="module")
def dev(mini: Path) -> list[tuple[np.ndarray, str]]:
    with gzip.open(mini / "dev.jsonl.gz", "rt") as f:
        cuts = [json.loads(line) for line in f]
    return [
        (read(mini / cut["recording"]["sources"][0]["source"]), cut["supervisions"][0]["text"])
        for cut in cuts
    ]


def distractors(count: int) -> tuple[str, ...]:
    """Words of random letters; of one to three: names."""
    chosen = random.Random(0)
    letters = "ABCDEFGHIJKLMNOPQRSTUVWX"

    def word() -> str:
        return "".join(chosen.choices(letters, k=chosen.randint(3, 9)))

    return tuple(" ".join(word() for _ in range(chosen.choice((1, 1, 2)))) for _ in range(count))


def decoded(
    model: Model, dev: list[tuple[np.ndarray, str]], head: str, search: SearchConfig
) -> list[Transcript]:
    results = [
        result
        for _, result in transcribe_files(model, [samples for samples, _ in dev], head=head, search=search)
    ]
    assert all(isinstance(result, Transcript) for result in results)
    return results  # type: ignore[return-value]


def recalled(dev: list[tuple[np.ndarray, str]], results: list[Transcript]) -> int:
    """How many of the rare words were found: the lesser of how often they were said and are written, each."""
    return sum(
        min(said.split().count(word.upper()), result.text.split().count(word.upper()))
        for (_, said), result in zip(dev, results, strict=True)
        for word in RARE
    )


def error_rate(dev: list[tuple[np.ndarray, str]], results: list[Transcript]) -> float:
    return 100 * count_errors([said for _, said in dev], [result.text for result in results]).rate


def assert_same_but_where_fired(listed: list[Transcript], plain: list[Transcript]) -> None:
    fired = [any(word.phrase for word in result.words) for result in listed]
    assert not all(fired)
    for with_list, without, one_fired in zip(listed, plain, fired, strict=True):
        assert one_fired or with_list.words == without.words


def test_rare_words_rise_and_distractors_do_no_harm(model: Model, dev: list[tuple[np.ndarray, str]]) -> None:
    def beam(*phrases: str) -> SearchConfig:
        return SearchConfig(kind="beam", phrases=phrases, phrase_boost=3.0)

    plain = decoded(model, dev, "ctc", beam())
    listed = decoded(model, dev, "ctc", beam(*RARE))
    assert recalled(dev, listed) >= recalled(dev, plain) + 3
    assert error_rate(dev, listed) < error_rate(dev, plain)
    boosted = {word.text for result in listed for word in result.words if word.phrase}
    assert boosted and boosted <= {word.upper() for word in RARE}
    among = decoded(model, dev, "ctc", beam(*RARE, *distractors(1000)))
    assert recalled(dev, among) > recalled(dev, plain)
    others = decoded(model, dev, "ctc", beam(*distractors(1000)))
    assert abs(error_rate(dev, others) - error_rate(dev, plain)) < 0.5
    assert_same_but_where_fired(others, plain)


@pytest.mark.parametrize("head", ["ctc", "transducer"])
def test_greedy_search_with_phrases(model: Model, dev: list[tuple[np.ndarray, str]], head: str) -> None:
    """Rare words rise where they are listed; a list of what nobody says changes no text."""
    plain = decoded(model, dev, head, SearchConfig())
    listed = decoded(model, dev, head, SearchConfig(phrases=RARE, phrase_boost=2.5))
    assert recalled(dev, listed) >= recalled(dev, plain) + 2
    assert_same_but_where_fired(listed, plain)
    others = decoded(model, dev, head, SearchConfig(phrases=distractors(200)))
    assert abs(error_rate(dev, others) - error_rate(dev, plain)) < 0.5
    assert_same_but_where_fired(others, plain)
