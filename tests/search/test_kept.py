"""Transducers that do not look at all frames: what is found is what is found in the others, at their own times."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from asr.errors import ConfigError
from asr.model import Model
from asr.search.beam import Hypothesis
from asr.search.config import SearchConfig
from asr.search.plan import Plan
from models import small_model
from tests.search.lattices import (
    ALL,
    DURATIONS,
    agree,
    every_text,
    frames,
    head_of,
    search,
    text,
    tokenizer,
    transducer,
)

ABC = tokenizer("abc")


class Heard(NamedTuple):
    """In place of a CTC head: a frame's first value says whether it is blank."""

    def log_probabilities(self, y: Tensor) -> Tensor:
        return torch.where(y[..., :1] > 50, -0.01, -9.0)


def marked(y: Tensor, wanted: Tensor) -> Tensor:
    """Blank frames (B, U) are loud, and would be heard."""
    return torch.where(wanted[..., None], y, 100.0)


def spared(
    y: Tensor, lens: Tensor, config: SearchConfig, cuts: tuple[int, ...] = (), kind: str = "transducer"
) -> list[list[Hypothesis]]:
    head = head_of(kind, 4, seed=2)
    head.spare_by(Heard())  # type: ignore[arg-type]
    return search(head, y, lens, [replace(config, blank_skip=0.9)] * len(y), ABC, cuts=cuts)


@given(
    seed=st.integers(0, 1000),
    share=st.sampled_from([0.0, 0.1, 0.5, 0.9]),
    cuts=st.sets(st.integers(1, 39), max_size=4),
    lag=st.integers(1, 12),
    kind=st.sampled_from(["greedy", "beam"]),
)
@settings(max_examples=12)
def test_any_split_says_what_the_kept_frames_alone_say(
    seed: int, share: float, cuts: set[int], lag: int, kind: str
) -> None:
    make = torch.Generator().manual_seed(seed)
    y, lens = frames((3, 40), seed), torch.tensor([40, 23, 0])
    wanted = torch.rand(3, 40, generator=make) < share
    config = SearchConfig(kind=kind, lag_frames=lag)  # type: ignore[arg-type]
    loud = marked(y, wanted)
    whole = spared(loud, lens, config, ())
    for one, other in zip(whole, spared(loud, lens, config, tuple(sorted(cuts))), strict=True):
        agree(one, other)
    # Without a limit to what may still change, the frames left out might never have been.
    config = SearchConfig(kind=kind, lag_frames=1000)  # type: ignore[arg-type]
    for b, n in enumerate(lens.tolist()):
        places = wanted[b, :n].nonzero()[:, 0]
        few, length = y[b : b + 1, places], torch.tensor([len(places)])
        (expected,) = search(transducer(4, seed=2), few, length, [config], ABC)
        moved = [
            Hypothesis([e._replace(frame=int(places[e.frame])) for e in h.emissions], h.score)
            for h in expected
        ]
        agree(moved, spared(loud, lens, config, ())[b])


@given(
    seed=st.integers(0, 1000),
    kind=st.sampled_from(sorted(DURATIONS)),
    share=st.sampled_from([0.1, 0.5, 0.9]),
    cuts=st.sets(st.integers(1, 39), max_size=4),
)
@settings(max_examples=5)
def test_durations_count_the_frames_that_nobody_looks_at(
    seed: int, kind: str, share: float, cuts: set[int]
) -> None:
    """On such a frame the next is waited for. So a beam of one is greedy search, for any split."""
    wanted = torch.rand(3, 40, generator=torch.Generator().manual_seed(seed)) < share
    y, lens = marked(frames((3, 40), seed), wanted), torch.tensor([40, 23, 0])
    for config in (SearchConfig(), SearchConfig(kind="beam", beam=1), SearchConfig(kind="beam", beam=3)):
        whole, split = (spared(y, lens, config, each, kind) for each in ((), tuple(sorted(cuts))))
        for one, other, looked_at in zip(whole, split, wanted, strict=True):
            agree(one, other)
            assert all(looked_at[e.frame] for h in one for e in h.emissions)
        if config.beam == 1:
            for (one,), (other,) in zip(spared(y, lens, SearchConfig(), (), kind), whole, strict=True):
                agree([Hypothesis(one.emissions, other.score)], [other])


def test_scores_are_the_sums_over_all_paths_with_durations() -> None:
    """The second and third frame are left out: who would act there acts on the fourth."""
    y, wanted = frames((1, 5), 1), [True, False, False, True, True]
    config = SearchConfig(kind="beam", beam=ALL)
    (found,) = spared(marked(y, torch.tensor([wanted])), torch.tensor([5]), config, kind="tdt")
    expected = every_text(head_of("tdt", 4, seed=2), y[0], wanted=wanted)
    assert {text(h): h.score for h in found} == pytest.approx(expected)


def test_a_long_silence_settles_what_was_said() -> None:
    """Frames that nobody looks at count for the lag, too."""
    head, plan = transducer(4, seed=2), Plan([SearchConfig(kind="beam", lag_frames=6, blank_skip=0.9)], ABC)
    head.spare_by(Heard())  # type: ignore[arg-type]
    with torch.inference_mode():
        state = head.init_state(1, plan)
        y, every = frames((1, 12), 3), torch.tensor([12])
        _, state = head.step(y, every, state, plan)
        assert head.tail(state)[0]
        (found,), state = head.step(torch.full_like(y, 100.0), every, state, plan)
    assert found and not head.tail(state)[0]


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["greedy", "beam"])
def test_the_model_says_the_same_for_any_chunks_and_company(kind: str) -> None:
    """CTC decides frame by frame, and streams with other thresholds share the step."""
    model = small_model()
    y = torch.randn(3, 50, model.encoder.dim, generator=torch.Generator().manual_seed(1))
    lens = torch.tensor([50, 50, 31])
    logits = model.heads["ctc"].output(y)
    model.heads["ctc"].output.bias[0] += (logits[..., 1:].amax(2) - logits[..., 0]).median()  # half are blank
    blank = model.heads["ctc"].log_probabilities(y)[..., 0].exp()
    assert 0.1 < float((blank > 0.6).float().mean()) < 0.9
    searches = [
        SearchConfig(kind=kind, blank_skip=0.6),  # type: ignore[arg-type]
        SearchConfig(kind=kind, blank_skip=None, blank_penalty=0.1),  # type: ignore[arg-type]
        SearchConfig(kind=kind, blank_skip=0.9),  # type: ignore[arg-type]
    ]

    def said(rows: list[int], size: int) -> list[list[tuple[int, int]]]:
        plan = model.plan([searches[b] for b in rows], len(rows))
        state, found = model.head().init_state(len(rows), plan), [[] for _ in rows]
        for begin in range(0, 50, size):
            part = (lens[rows] - begin).clamp(0, size)
            new, state = model.head().step(y[rows, begin : begin + size], part, state, plan)
            found = [a + b for a, b in zip(found, new, strict=True)]
        ends = model.head().finish(state, plan)
        return [[e[:2] for e in f + end[0].emissions] for f, end in zip(found, ends, strict=True)]

    together = said([0, 1, 2], 50)
    assert together == said([0, 1, 2], 7) == said([0, 1, 2], 1)
    for b in range(3):
        assert said([b], 10) == [together[b]]
    assert all(blank[0, frame] <= 0.6 for _, frame in together[0])
    assert together[0] and any(blank[1, frame] > 0.6 for _, frame in together[1])


def test_what_it_takes() -> None:
    model = small_model()
    with pytest.raises(ConfigError, match=r"search\.blank_skip is 0.3; it must be from 0.5 to 1"):
        SearchConfig(blank_skip=0.3)
    with pytest.raises(ConfigError, match="takes a transducer that decodes"):
        model.init_state(1, head="ctc", search=SearchConfig(blank_skip=0.9))
    alone = Model(replace(model.config, ctc=None), model.tokenizer)
    with pytest.raises(ConfigError, match="and CTC beside it"):
        alone.plan(SearchConfig(blank_skip=0.9), 1)
