from __future__ import annotations

from pathlib import Path

import pytest
import torch

from asr.language_model import ngram
from asr.language_model.estimate import estimate
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
