"""Joint search and rescoring against all texts that the frames can hold, each scored by itself."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from asr.errors import ConfigError
from asr.heads import BLANK, AttentionConfig, AttentionDecoder
from asr.search.beam import Hypothesis
from asr.search.config import SearchConfig
from asr.search.plan import Plan
from tests.search.lattices import ctc, every_text, frames, search, text, tokenizer

ABC = tokenizer("abc")
V = 4
ALL = 64  # hypotheses: V - 1 tokens on 3 frames are 40 texts


def head_of(
    seed: int, *, reverse: bool = False, alone: bool = False, sos_eos: int = BLANK
) -> AttentionDecoder:
    front = ctc(V, seed=seed)
    config = AttentionConfig(
        layers=1, heads=2, dim=8, feed_forward_dim=8, reverse_layers=int(reverse), sos_eos=sos_eos
    )
    head = AttentionDecoder(config, 4, V, None if alone else front).double().eval()
    with torch.no_grad():
        for decoder in (head.decoder, head.reverse_decoder) if reverse else (head.decoder,):
            decoder.output.weight *= 3
            decoder.layers[0].cross_attention.project_memory.weight *= 3
    return head


def score(decoder: Any, y: Tensor, tokens: tuple[int, ...], sos_eos: int) -> float:
    """Of one text, a token at a time and without any cache."""
    memory, total = decoder.remember(y[None], torch.tensor([len(y)])), 0.0
    for i, token in enumerate((*tokens, sos_eos)):
        seen = torch.tensor([[[sos_eos, *tokens[:i]]]])
        total += float(decoder(seen, memory, decoder.begin(1, 1))[0][0, 0, -1, token])
    return total


@torch.inference_mode()
def every_score(
    head: AttentionDecoder, y: Tensor, weight: float, reverse: float = 0.0
) -> dict[tuple[int, ...], float]:
    end = head.config.sos_eos
    heard = every_text(head._ctc[0], y) if weight else {}
    tokens = [token for token in range(1, V) if token != end]
    scores = {}
    for n in range(len(y) + 1):
        for one in product(tokens, repeat=n):
            attention = (1 - reverse) * score(head.decoder, y, one, end)
            if reverse:
                attention += reverse * score(head.reverse_decoder, y, one[::-1], end)
            both = (1 - weight) * attention + (weight * heard.get(one, -torch.inf) if weight else 0.0)
            if both > -torch.inf:
                scores[one] = both
    return scores


def found(head: AttentionDecoder, y: Tensor, lens: Tensor, config: SearchConfig) -> list[list[Hypothesis]]:
    return search(head, y, lens, [config] * len(y), ABC)


@pytest.mark.parametrize("kind", ["beam", "rescoring"])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("reverse", [0.0, 0.4])
def test_scores_of_all_texts_are_exact(kind: str, weight: float, reverse: float) -> None:
    head, y, lens = head_of(1, reverse=reverse > 0), frames((2, 3), 5), torch.tensor([3, 2])
    config = SearchConfig(kind=kind, beam=ALL, ctc_weight=weight, reverse_weight=reverse)
    for b, hypotheses in enumerate(found(head, y, lens, config)):
        expected = every_score(head, y[b, : lens[b]], weight, reverse)
        heard = every_text(head._ctc[0], y[b, : lens[b]])
        if kind == "rescoring":
            expected = {one: expected[one] for one in heard}
        assert {text(h): h.score for h in hypotheses} == pytest.approx(expected, abs=1e-9)
        assert [h.score for h in hypotheses] == sorted((h.score for h in hypotheses), reverse=True)


@pytest.mark.parametrize("kind", ["beam", "rescoring"])
@pytest.mark.parametrize("bonus", [-1.0, 2.5])
def test_each_token_has_its_bonus(kind: str, bonus: float) -> None:
    """In exact scores; and the more there is of it, the longer is the best text."""
    head, y, lens = head_of(1), frames((1, 3), 5), torch.tensor([3])
    expected, plain = every_score(head, y[0], 0.3), SearchConfig(kind=kind, beam=ALL, ctc_weight=0.3)  # type: ignore[arg-type]
    (hypotheses,) = found(head, y, lens, replace(plain, length_bonus=bonus))
    told = {text(h): h.score for h in hypotheses}
    assert told == pytest.approx({t: score + bonus * len(t) for t, score in expected.items()}, abs=1e-9)
    ((usual, *_),) = found(head, y, lens, plain)
    assert (len(text(hypotheses[0])) - len(text(usual))) * bonus >= 0
    lengths = [
        len(text(found(head, y, lens, replace(plain, length_bonus=b))[0][0])) for b in (-9.0, 0.0, 9.0)
    ]
    assert lengths == sorted(lengths) and lengths[0] == 0 and lengths[2] == 3


def test_a_text_ends_where_its_end_is_not_too_improbable() -> None:
    head, y, lens = head_of(2, alone=True), frames((1, 3), 9), torch.tensor([3])
    every = {text(h): h.score for h in found(head, y, lens, SearchConfig(kind="beam", beam=ALL))[0]}
    (some,) = found(head, y, lens, SearchConfig(kind="beam", beam=ALL, end_threshold=1.5))
    allowed = {}
    for one, exact in every.items():
        memory, said = head.decoder.remember(y, lens), torch.tensor([[[BLANK, *one]]])
        scores = head.decoder(said, memory, head.decoder.begin(1, 1))[0][0, 0, -1]
        if len(one) == 3 or scores[BLANK] >= 1.5 * scores.max():
            allowed[one] = exact
    assert {text(h): h.score for h in some} == pytest.approx(allowed, abs=1e-9)
    assert 27 < len(allowed) < len(every) == 40


@given(seed=st.integers(0, 1000), size=st.integers(1, 6), weight=st.sampled_from([0.3, 0.7]))
@settings(max_examples=6)
def test_a_bigger_beam(seed: int, size: int, weight: float) -> None:
    """Whatever the beam, scores are exact, and none is better than that of the beam that holds every text."""
    head, y, lens = head_of(seed), frames((1, 3), seed), torch.tensor([3])
    expected = every_score(head, y[0], weight)
    (few,) = found(head, y, lens, SearchConfig(kind="beam", beam=size, ctc_weight=weight))
    assert 1 <= len(few) <= size and len({text(h) for h in few}) == len(few)
    assert all(h.score == pytest.approx(expected[text(h)], abs=1e-9) for h in few)
    (whole,) = found(head, y, lens, SearchConfig(kind="beam", beam=ALL, ctc_weight=weight))
    assert whole[0].score == pytest.approx(max(expected.values()), abs=1e-9)
    assert whole[0].score >= few[0].score - 1e-9


@given(seed=st.integers(0, 1000), sos_eos=st.sampled_from([BLANK, 3]))
@settings(max_examples=10)
def test_a_beam_of_one_without_ctc_is_greedy(seed: int, sos_eos: int) -> None:
    """And greedy is the best token, one after another, until it is the end."""
    head = head_of(seed, alone=True, sos_eos=sos_eos)
    y, lens = frames((3, 9), seed), torch.tensor([9, 5, 1])
    greedy = found(head, y, lens, SearchConfig())
    for bonus in (1.0, 0.0):
        one = found(
            head, y, lens, SearchConfig(kind="beam", beam=1, ctc_weight=0.5, length_bonus=bonus)
        )  # there is none to weigh
        same = found(head, y, lens, SearchConfig(length_bonus=bonus)) if bonus else greedy
        assert [text(h) for (h,) in same] == [text(h) for (h,) in one]
    assert [(text(h), h.score) for (h,) in greedy] == [(text(h), h.score) for (h,) in one]
    for b, n in enumerate(lens.tolist()):
        memory, said = head.decoder.remember(y[b : b + 1, :n], lens[b : b + 1]), [sos_eos]
        while len(said) <= n:
            scores = head.decoder(torch.tensor([[said]]), memory, head.decoder.begin(1, 1))[0][0, 0, -1]
            scores[[token for token in (BLANK,) if token != sos_eos]] = -torch.inf
            if (token := int(scores.argmax())) == sos_eos:
                break
            said.append(token)
        assert text(greedy[b][0]) == tuple(said[1:])


@pytest.mark.parametrize("kind", ["greedy", "beam", "rescoring"])
def test_a_batch_of_mixed_choices_says_what_each_says_alone(kind: str) -> None:
    head, y, lens = head_of(3, reverse=True), frames((4, 40), 3), torch.tensor([40, 33, 40, 7])
    choices = [
        {"phrases": ("abc",)}, {"phrases": ("cc", "ba"), "phrase_boost": 3.0, "ctc_weight": 0.6},
        {"phrases": ("a",), "ctc_weight": 0.0, "end_threshold": 1.5},
        {"phrases": ("b",), "reverse_weight": 1.0, "length_bonus": 1.0},
    ]  # fmt: skip
    configs = [SearchConfig(kind=kind, lag_frames=8, **options) for options in choices]  # type: ignore[arg-type]
    together = search(head, y, lens, configs, ABC)
    assert any(text(hypotheses[0]) for hypotheses in together)
    for b, config in enumerate(configs):
        (alone,) = search(head, y[b : b + 1], lens[b : b + 1], [config], ABC)
        assert [[e[:2] for e in h.emissions] for h in alone] == [
            [e[:2] for e in h.emissions] for h in together[b]
        ]
        assert [h.score for h in alone] == pytest.approx([h.score for h in together[b]])


def test_phrases_and_their_boost() -> None:
    """What is added is added to the exact scores: whole phrases, and nothing for parts of them."""
    head, y, lens = head_of(4), frames((1, 3), 8), torch.tensor([3])
    expected = every_score(head, y[0], 0.3)
    for kind in ("beam", "rescoring"):
        config = SearchConfig(kind=kind, beam=ALL // 2, phrases=("ba",), phrase_boost=2.0)
        (hypotheses,) = search(head, y, lens, [config], ABC)
        assert {text(h) for h in hypotheses} == expected.keys()
        for h in hypotheses:
            boost = 4.0 if text(h)[-2:] == (2, 1) else 0.0  # a phrase ends where a word does
            assert h.score == pytest.approx(expected[text(h)] + boost, abs=1e-9)


def test_what_cannot_share_a_step() -> None:
    configs = [SearchConfig(kind="beam"), SearchConfig(kind="rescoring")]
    with pytest.raises(ConfigError, match="cannot share a step"):
        Plan(configs, ABC)
