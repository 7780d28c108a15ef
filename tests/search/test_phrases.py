"""The automaton of phrases against the definition: a boost for what each whole phrase says, and for nothing else."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr.heads import Emission
from asr.search.automaton import join
from asr.search.beam import rank, start
from asr.search.config import SearchConfig
from asr.search.phrases import PRIOR, as_written, compile_phrases, mark, word_begins
from asr.search.plan import Plan
from asr.search.prefix import ctc_beam
from asr.tokenizer import Tokenizer, words
from tests.search.lattices import agree, every_text, frames, head_of, search, text, tokenizer

LETTERS = tokenizer("ab▁")
BOOST = 2.0


def weight(phrases: tuple[str, ...], tokens: list[int], model: Tokenizer = LETTERS) -> float:
    """What a text gets in all."""
    automaton = compile_phrases(phrases, BOOST, model).automaton
    state, total = automaton.start, 0.0
    for token in tokens:
        gain, state = automaton.step(state, torch.tensor([token]), torch.tensor([word_begins(model)[token]]))
        total += float(gain)
    return total + float(automaton.final[state])


def worth(phrases: tuple[str, ...], phrase: str, model: Tokenizer = LETTERS) -> float:
    """What a phrase adds: the boost of each token, less what it shares with the other phrases."""
    tokens = next(iter(compile_phrases((phrase,), BOOST, model).tokens))
    boost = BOOST * sum(model.piece(token) != "▁" for token in tokens)
    return max(0.0, boost - PRIOR * math.log(len(set(phrases))))


@pytest.mark.parametrize(
    ("phrases", "said", "found"),
    [
        (("ab",), "ab", ["ab"]),
        (("ab",), "a", []),
        (("ab",), "abb", []),  # the word goes on
        (("ab",), "bab", []),  # it had begun before
        (("ab",), "ab ab", ["ab", "ab"]),
        (("ab",), "b ab aa", ["ab"]),
        (("a b",), "a b", ["a b"]),
        (("a b",), "a bb", []),
        (("a b",), "a a b", ["a b"]),  # what broke off leaves nothing
        (("a", "a b"), "a b", ["a b"]),  # the longer one has the shorter in it
        (("a", "a b"), "a a", ["a", "a"]),
        (("b", "a b a"), "a b b", ["b", "b"]),  # the shorter one in the midst of a longer that breaks off
        (("b", "a b a"), "a b a", ["a b a"]),
        (("b", "ab"), "ab", ["ab"]),  # "b" is no word there
        (("a b", "b a"), "a b a", ["a b", "b a"]),  # both are there
    ],
)
def test_only_whole_phrases_keep_their_boost(phrases: tuple[str, ...], said: str, found: list[str]) -> None:
    expected = sum(worth(phrases, phrase) for phrase in found)
    assert weight(phrases, LETTERS.encode(said)) == pytest.approx(expected)


@given(st.text("ab ", max_size=12), st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=4))
def test_words_as_phrases(said: str, phrases: list[str]) -> None:
    said = " ".join(said.split())
    expected = sum(worth(tuple(phrases), word) for word in said.split() if word in phrases)
    tokens = LETTERS.encode(said)
    assert weight(tuple(phrases), tokens) == pytest.approx(expected)
    found = compile_phrases(tuple(phrases), BOOST, LETTERS).matches(tokens)
    assert [m.phrase for m in found] == [word for word in said.split() if word in phrases]


def test_a_phrase_among_many_is_worth_less_and_never_less_than_nothing() -> None:
    alone = weight(("ab",), LETTERS.encode("ab"))
    among = weight(("ab", "ba", "aa", "bb"), LETTERS.encode("ab"))
    assert 0 <= among < alone == pytest.approx(2 * BOOST)


@pytest.mark.parametrize("kind", ["ctc", "transducer", "tdt"])
def test_scores_in_a_beam_are_the_sum_over_all_paths_and_the_boost(kind: str) -> None:
    """So a phrase that is not there changes no score at all."""
    head, y = head_of(kind, 4, seed=1), frames((1, 4), 1)
    config = SearchConfig(kind="beam", beam=64, phrases=("ab", "b a"), phrase_boost=BOOST, phrase_margin=1000)
    every = every_text(head, y[0])
    (found,) = search(head, y, torch.tensor([4]), [config], LETTERS)
    for hypothesis in found:
        boost = weight(("ab", "b a"), list(text(hypothesis)))
        assert hypothesis.score <= every[text(hypothesis)] + boost + 1e-9
    assert found[0].score == pytest.approx(max(s + weight(("ab", "b a"), list(t)) for t, s in every.items()))


def test_joined_automata_do_not_know_each_other() -> None:
    lists = [("ab",), (), ("b", "a b a"), ("ab",)]
    automata = [compile_phrases(phrases, BOOST, LETTERS).automaton for phrases in lists]
    joined, offset = join(automata)
    state = offset + torch.cat([a.start for a in automata])
    total = torch.zeros(4, dtype=torch.float64)
    for token in LETTERS.encode("a b ab"):
        gain, state = joined.step(
            state, torch.full((4,), token), torch.full((4,), word_begins(LETTERS)[token])
        )
        total += gain
    total += joined.final[state]
    assert total.tolist() == pytest.approx([weight(phrases, LETTERS.encode("a b ab")) for phrases in lists])
    assert offset[0] == offset[3]


TEXTS = ["THE QUICK BROWN FOX", "JUMPS OVER THE LAZY DOG", "PACK MY BOX"] * 3


@pytest.mark.parametrize("kind", ["unigram", "bpe", "characters"])
def test_phrases_are_written_as_the_model_writes(kind: str) -> None:
    model = Tokenizer.train(TEXTS, kind=kind, vocabulary=300)  # type: ignore[arg-type]
    phrases = compile_phrases(("lazy Dog", "", "Œuvre", "..."), BOOST, model)
    assert as_written("Dog", model) == "DOG"
    refused = dict(phrases.refused)
    if kind == "characters":
        assert set(refused) == {"", "Œuvre", "..."} and "alphabet" in refused["Œuvre"]
    else:  # in bytes
        assert set(refused) == {""}
    assert refused[""] == "it has no letters"
    tokens = model.encode("THE LAZY DOG JUMPS")
    (match,) = phrases.matches(tokens)
    assert match.phrase == "lazy Dog" and model.decode(tokens[match.begin : match.end]) == "LAZY DOG"
    assert weight(("lazy Dog",), tokens, model) == pytest.approx(
        BOOST * sum(model.piece(t) != "▁" for t in tokens[match.begin : match.end])
    )


def test_bytes_are_units_as_well() -> None:
    model = Tokenizer.train(TEXTS, kind="bpe", vocabulary=300)
    tokens = model.encode("THE ŒUVRE")
    assert any(model.piece(t).startswith("<0x") for t in tokens)
    assert weight(("Œuvre",), tokens, model) >= BOOST * 4
    assert weight(("Œuvre",), model.encode("THE ŒUVRES"), model) == pytest.approx(0)


def test_without_byte_fallback_a_strange_character_is_refused() -> None:
    model = Tokenizer.train(TEXTS, kind="bpe", vocabulary=40, byte_fallback=False)
    ((phrase, reason),) = compile_phrases(("Œuvre",), BOOST, model).refused
    assert phrase == "Œuvre" and "cannot write" in reason


def test_a_script_without_spaces() -> None:
    """A phrase may stand anywhere, and end before any character."""
    model = tokenizer("我在北京市▁")
    for said in ("我在北京", "北京市", "我 北京"):
        assert weight(("北京",), model.encode(said), model) == pytest.approx(2 * BOOST)
    assert weight(("北京",), model.encode("北市"), model) == pytest.approx(0)


def test_words_tell_which_phrase_they_are_of() -> None:
    model = Tokenizer.train(TEXTS, kind="bpe", vocabulary=300)
    emissions = [Emission(t, i, -0.1) for i, t in enumerate(model.encode("THE LAZY DOG JUMPS"))]
    found = words(emissions, model, frame_seconds=0.04)
    marked = mark(found, emissions, compile_phrases(("lazy dog",), BOOST, model), model)
    assert [(w.text, w.phrase) for w in marked] == [
        ("THE", ""), ("LAZY", "lazy dog"), ("DOG", "lazy dog"), ("JUMPS", ""),
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["ctc", "transducer", "tdt"])
def test_greedy_search_keeps_hypotheses_for_phrases(kind: str) -> None:
    """Phrases in the list are found more often, and the same ones however the frames are split."""
    found = {"plain": 0, "listed": 0}
    for seed in range(8):
        head, y, lens = head_of(kind, 4, seed=seed, loud=1.0), frames((1, 30), seed), torch.tensor([30])
        (plain,) = search(head, y, lens, [SearchConfig()], LETTERS)
        config = SearchConfig(phrases=("abab", "bb"), phrase_boost=3.0)
        (boosted,) = search(head, y, lens, [config], LETTERS)
        (cut,) = search(head, y, lens, [config], LETTERS, cuts=(1, 7, 20))
        agree(cut, boosted)
        for name, hypothesis in (("plain", plain[0]), ("listed", boosted[0])):
            tokens = [e.token for e in hypothesis.emissions]
            found[name] += len(compile_phrases(("abab", "bb"), 1.0, LETTERS).matches(tokens))
    assert found["listed"] > found["plain"]


@pytest.mark.parametrize("search_kind", ["greedy", "beam"])
@pytest.mark.parametrize("kind", ["ctc", "transducer", "tdt"])
def test_a_list_changes_nothing_but_where_a_phrase_fires(kind: str, search_kind: str) -> None:
    """Without one in the text, it is that of the search without a list: token by token, on the same frames."""
    phrases, same, other = ("abab", "baa"), 0, 0
    for seed, boost in product(range(6), (0.1, 1.5)):
        head, y, lens = head_of(kind, 4, seed=seed, loud=4.0), frames((1, 12), seed), torch.tensor([12])
        config = SearchConfig(kind=search_kind, phrases=phrases, phrase_boost=boost)  # type: ignore[arg-type]
        (plain,) = search(head, y, lens, [replace(config, phrases=())], LETTERS)
        (listed,) = search(head, y, lens, [config], LETTERS)
        fired = compile_phrases(phrases, boost, LETTERS).matches(text(listed[0]))
        assert fired or [e[:2] for e in listed[0].emissions] == [e[:2] for e in plain[0].emissions]
        same, other = same + (not fired), other + (text(listed[0]) != text(plain[0]))
    assert same and other


def test_a_token_that_was_not_heard_breaks_a_phrase_off() -> None:
    """ "ab" is boosted where b is a little less probable than a, and not where it is far less so."""
    for far, boosted in ((1.0, True), (5.0, False)):
        logits = torch.full((1, 3, 4), -20.0, dtype=torch.float64)
        logits[0, 0, LETTERS.encode("a")[-1]] = 0.0
        logits[0, 1, 0] = 0.0
        logits[0, 2, LETTERS.encode("a")[-1]] = 0.0
        logits[0, 2, LETTERS.encode("b")[-1]] = -far
        config = SearchConfig(kind="beam", phrases=("ab",), phrase_boost=8.0, phrase_margin=2.0)
        plan = Plan([config], LETTERS)
        assert plan.fusion is not None
        state = start(1, plan.beam, 2, plan.lag, plan.fusion.init(1, plan.beam), ())
        _, state = ctc_beam(logits.log_softmax(-1), torch.tensor([3]), state, plan)
        best = rank(state, plan.fusion.finish(state.fused))[0][0]
        assert LETTERS.decode([e.token for e in best.emissions]) == ("ab" if boosted else "aa")
