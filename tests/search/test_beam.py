"""Beam search of both heads against all paths, counted one by one; split, batched and mixed streams against each alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.errors import ConfigError
from asr.search.beam import Hypothesis
from asr.search.config import SearchConfig
from asr.search.plan import Plan
from models import PREDICTORS
from tests.search.lattices import ALL, DURATIONS, agree, every_text, frames, head_of, search, text, tokenizer

HEADS = ("ctc", "transducer", "tdt")
KINDS = ("ctc", *PREDICTORS, *DURATIONS)
ABC = tokenizer("abc")


def beam(size: int, **options: object) -> SearchConfig:
    return SearchConfig(kind="beam", beam=size, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("penalty", [0.0, 1.5])
def test_scores_are_the_sums_over_all_paths(kind: str, seed: int, penalty: float) -> None:
    head, y, lens = head_of(kind, 3, seed=seed), frames((2, 5), seed), torch.tensor([5, 3])
    config = beam(ALL, blank_penalty=penalty)
    for b, found in enumerate(search(head, y, lens, [config] * 2, tokenizer("ab"))):
        expected = every_text(head, y[b, : lens[b]], penalty)
        assert {text(h): h.score for h in found} == pytest.approx(expected)
        assert [h.score for h in found] == pytest.approx(sorted(expected.values(), reverse=True))


@pytest.mark.parametrize("kind", HEADS)
@given(seed=st.integers(0, 1000), size=st.integers(1, 6))
@settings(max_examples=10)
def test_a_bigger_beam(kind: str, seed: int, size: int) -> None:
    """No beam claims more than a text's probability, and none of them beats the one that holds every text."""
    head, y = head_of(kind, 4, seed=seed), frames((1, 4), seed)
    expected = every_text(head, y[0])
    (found,) = search(head, y, torch.tensor([4]), [beam(size)], ABC)
    assert 1 <= len(found) <= size and len({text(h) for h in found}) == len(found)
    assert all(h.score <= expected[text(h)] + 1e-9 for h in found)
    (whole,) = search(head, y, torch.tensor([4]), [beam(64)], ABC)
    assert whole[0].score >= found[0].score - 1e-9


@given(seed=st.integers(0, 1000), kind=st.sampled_from(KINDS[1:]), penalty=st.sampled_from([0.0, 2.0]))
@settings(max_examples=20)
def test_a_transducers_beam_of_one_is_greedy(seed: int, kind: str, penalty: float) -> None:
    head, y, lens = head_of(kind, 4, seed=seed), frames((3, 12), seed), torch.tensor([12, 7, 0])
    greedy = search(head, y, lens, [SearchConfig(blank_penalty=penalty)] * 3, ABC)
    found = search(head, y, lens, [beam(1, blank_penalty=penalty)] * 3, ABC)
    for (one,), (other,) in zip(greedy, found, strict=True):
        agree([Hypothesis(one.emissions, other.score)], [other])


def test_a_ctc_beam_of_one_need_not_be_greedy() -> None:
    """Greedy takes the best path, prefix search the best text: here blank 0.6, a 0.4 twice. "" has 0.36, "a" 0.64."""
    head = head_of("ctc", 2)
    with torch.no_grad():
        head.output.weight.zero_()
        head.output.bias.copy_(torch.tensor([0.6, 0.4]).log())
    y, lens = frames((1, 2), 0), torch.tensor([2])
    ((greedy,),) = search(head, y, lens, [SearchConfig()], tokenizer("a"))
    (two,) = search(head, y, lens, [beam(2)], tokenizer("a"))
    assert text(greedy) == () and text(two[0]) == (1,)
    assert two[0].score == pytest.approx(torch.tensor(0.64).log().item())


@pytest.mark.parametrize("kind", HEADS)
def test_the_candidates_of_a_frame_hold_all_that_the_beam_keeps(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without fusion, only the K + 1 best tokens are looked at."""
    pieces = tokenizer("abcdefghijkl")
    for seed in range(4):
        head, y, lens = head_of(kind, 13, seed=seed), frames((2, 12), seed), torch.tensor([12, 9])
        few = search(head, y, lens, [beam(3)] * 2, pieces)
        with monkeypatch.context() as patch:
            patch.setattr(Plan, "width", lambda self, vocabulary: vocabulary - 1)
            all_of_them = search(head, y, lens, [beam(3)] * 2, pieces)
        for one, other in zip(few, all_of_them, strict=True):
            agree(one, other)


@pytest.mark.parametrize("kind", KINDS)
@given(
    seed=st.integers(0, 1000),
    lag=st.integers(1, 12),
    cuts=st.sets(st.integers(1, 29), max_size=5),
    size=st.integers(1, 4),
    boost=st.sampled_from([0.0, 1.0]),
)
@settings(max_examples=8)
def test_any_split_of_the_frames_says_the_same(
    kind: str, seed: int, lag: int, cuts: set[int], size: int, boost: float
) -> None:
    head, y, lens = head_of(kind, 4, seed=seed), frames((3, 30), seed), torch.tensor([30, 21, 0])
    phrases = ("abc", "cab") if boost else ()
    configs = [beam(size, lag_frames=lag, phrases=phrases, phrase_boost=boost)] * 3
    whole = search(head, y, lens, configs, ABC)
    split = search(head, y, lens, configs, ABC, cuts=tuple(sorted(cuts)))
    for one, other in zip(whole, split, strict=True):
        agree(one, other)
        assert all([e.frame for e in h.emissions] == sorted(e.frame for e in h.emissions) for h in one)


@pytest.mark.parametrize("kind", HEADS)
def test_mixed_choices_in_a_batch_say_what_each_says_alone(kind: str) -> None:
    head, y, lens = head_of(kind, 4, seed=3), frames((5, 24), 3), torch.tensor([24, 24, 20, 13, 24])
    for size in (None, 4):
        mixed = [
            {}, {"blank_penalty": 1.0}, {"phrases": ("abc",)}, {"phrases": ("cc", "ba"), "phrase_boost": 3.0},
            {"phrases": ("b",), "blank_penalty": -1.0},
        ]  # fmt: skip
        choices = [
            {"phrases": ("a",)} | options for options in mixed
        ]  # with phrases and without cannot share a step
        configs = [beam(size, **options) if size else SearchConfig(**options) for options in choices]
        together = search(head, y, lens, configs, ABC)
        for b, config in enumerate(configs):
            (alone,) = search(head, y[b : b + 1], lens[b : b + 1], [config], ABC)
            agree(together[b], alone)


def test_what_cannot_share_a_step() -> None:
    with pytest.raises(ConfigError, match="cannot share a step"):
        Plan([beam(2), beam(3)], ABC)


@pytest.mark.parametrize("kind", HEADS)
def test_settled_tokens_stay_and_the_rest_is_short(kind: str) -> None:
    """What is settled is what the end shows, comes in time, and leaves little behind."""
    head, y = head_of(kind, 4, seed=5, loud=1.0), frames((1, 100), 5)
    config = beam(4, lag_frames=6)
    plan = Plan([config], ABC)
    with torch.inference_mode():
        state, settled = head.init_state(1, plan), []
        for u in range(100):
            (new,), state = head.step(y[:, u : u + 1], torch.tensor([1]), state, plan)
            settled += new
            (tail,) = head.tail(state)
            assert all(u + 1 - e.frame <= 6 + 8 for e in tail)
            assert all(u + 1 - e.frame > 6 for e in new)
        assert len(settled) > 10
        inner = state if kind == "ctc" else state.beam
        assert int(inner.length.max()) <= 2 * (6 + 8)
        ((best, *_),) = head.finish(state, plan)
        assert best.emissions == head.tail(state)[0]
