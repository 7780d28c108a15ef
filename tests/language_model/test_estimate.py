from __future__ import annotations

import math
import runpy
from pathlib import Path

import pytest
import torch

from asr.bundle_files import load_tokenizer
from asr.language_model import ngram
from asr.language_model.estimate import estimate
from asr.search.phrases import as_written
from tests.search.lattices import tokenizer

LETTERS = tokenizer("abc")
TEXTS = [list("abab"), list("aab"), list("b")]


def probability(model: ngram.LanguageModel, said: str, item: int) -> float:
    history = model.start[None]
    for letter in said:
        _, history = model.score(history, torch.tensor([LETTERS.encode(letter)[0]]))
    return float(model.score(history, torch.tensor([item]))[0].exp())


@pytest.mark.parametrize("order", [1, 2, 3])
def test_every_history_shares_out_one(tmp_path: Path, order: int):
    path = tmp_path / "lm.arpa"
    estimate(TEXTS, path, order=order, vocabulary="abc")
    model = ngram.load(str(path), LETTERS, torch.device("cpu"))
    assert model.unit == "tokens"
    for said in ("", "a", "ab", "abc", "cc", "bbab"):
        found = [probability(model, said, item) for item in range(4)]  # token 0 stands for <unk>
        end = by_hand(said, "</s>", order)
        assert sum(found) + end == pytest.approx(1.0, abs=1e-5)
        for item, letter in enumerate("abc", 1):
            assert found[item] == pytest.approx(by_hand(said, letter, order), rel=1e-5)


def by_hand(said: str, item: str, order: int) -> float:
    """Witten and Bell's interpolation, by its definition."""
    whole = [("<s>", *text, "</s>") for text in TEXTS]

    def score(history: tuple[str, ...]) -> float:
        n = len(history)
        followers = [
            text[i + n]
            for text in whole
            for i in range(len(text) - n)
            if text[i : i + n] == history and i + n > 0
        ]
        lower = score(history[1:]) if history else 1 / 5  # a, b, c, <unk>, </s>
        kinds = len(set(followers))
        if not followers:
            return lower
        return (followers.count(item) + kinds * lower) / (len(followers) + kinds)

    history = ("<s>", *said)
    return score(history[len(history) - order + 1 :] if order > 1 else ())


def test_order_is_at_least_one(tmp_path: Path):
    with pytest.raises(ValueError, match="order must be at least 1"):
        estimate(TEXTS, tmp_path / "lm.arpa", order=0)


def test_the_tool_makes_one_of_a_model_s_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root, path = Path(__file__).parents[2], tmp_path / "bigram.arpa"
    (tmp_path / "texts.txt").write_text("SEVEN THREE\nTHREE\n")
    model = root / "data/models/mini"
    words = [
        "ngram.py",
        str(tmp_path / "texts.txt"),
        "--model",
        str(model),
        "--order",
        "2",
        "--out",
        str(path),
    ]
    monkeypatch.setattr("sys.argv", words)
    runpy.run_path(str(root / "tools/ngram.py"), run_name="__main__")
    tokenizer = load_tokenizer(model)
    found = ngram.load(str(path), tokenizer, torch.device("cpu"))
    assert found.unit == "tokens"
    tokens = tokenizer.encode(as_written("three", tokenizer))
    scores, history = [], found.start[None]
    for token in tokens:
        score, history = found.score(history, torch.tensor([token]))
        scores.append(float(score))
    assert sum(scores) > math.log(0.1)
