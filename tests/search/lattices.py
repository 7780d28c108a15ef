"""Small lattices whose every path can be counted, and what tests of search have in common."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from asr.heads import BLANK, CTC, CTCConfig, Emission, TDTConfig, Transducer, TransducerConfig
from asr.search.beam import Hypothesis
from asr.search.config import SearchConfig
from asr.search.plan import Plan
from asr.tokenizer import Tokenizer
from models import PREDICTORS

ALL = 64  # hypotheses: more than there are texts in what is searched exhaustively here


def tokenizer(pieces: str) -> Tokenizer:
    """One token a character, after the blank; "▁" is the space."""
    return Tokenizer.from_bytes("characters", json.dumps({"characters": ["<blk>", *pieces]}).encode())


def ctc(vocabulary: int, *, dim: int = 4, seed: int = 0, loud: float = 3.0) -> CTC:
    torch.manual_seed(seed)
    head = CTC(CTCConfig(), dim, vocabulary).double().eval()
    with torch.no_grad():
        head.output.weight *= loud
    return head


def transducer(
    vocabulary: int,
    *,
    dim: int = 4,
    seed: int = 0,
    loud: float = 4.0,
    predictor: str = "stateless",
    **options: Any,
) -> Transducer:
    torch.manual_seed(seed)
    config = TransducerConfig(predictor=PREDICTORS[predictor], joiner_dim=8, **options)
    head = Transducer(config, dim, vocabulary).double().eval()
    with torch.no_grad():
        head.output.weight *= loud
        if config.tdt is not None:
            head.durations.weight *= loud
    return head


DURATIONS = {"tdt": (0, 1, 2, 3), "tdt without 0": (1, 4)}


def head_of(kind: str, vocabulary: int, **options: Any) -> Any:
    """ "ctc", "transducer", one of `DURATIONS`, or a transducer's by the kind of its predictor."""
    if kind == "ctc":
        return ctc(vocabulary, **options)
    if kind in DURATIONS:
        return transducer(vocabulary, loss="full", tdt=TDTConfig(durations=DURATIONS[kind]), **options)
    return transducer(vocabulary, predictor="stateless" if kind == "transducer" else kind, **options)


def frames(shape: tuple[int, ...], seed: int) -> Tensor:
    return 2 * torch.randn(*shape, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def search(
    head: Any,
    y: Tensor,
    lens: Tensor,
    configs: list[SearchConfig],
    tokens: Tokenizer,
    cuts: tuple[int, ...] = (),
) -> list[list[Hypothesis]]:
    """Each stream's whole hypotheses; the frames come in pieces that end at `cuts`."""
    plan = Plan(configs, tokens)
    state = head.init_state(len(y), plan)
    found: list[list[Emission]] = [[] for _ in y]
    for begin, end in zip((0, *cuts), (*cuts, y.shape[1]), strict=True):
        new, state = head.step(y[:, begin:end], (lens - begin).clamp(0, end - begin), state, plan)
        for all_of_one, of_step in zip(found, new, strict=True):
            all_of_one += of_step
    return [
        [Hypothesis(emissions + h.emissions, h.score) for h in hypotheses]
        for emissions, hypotheses in zip(found, head.finish(state, plan), strict=True)
    ]


def text(hypothesis: Hypothesis) -> tuple[int, ...]:
    return tuple(e.token for e in hypothesis.emissions)


def agree(one: list[Hypothesis], other: list[Hypothesis]) -> None:
    """The same tokens on the same frames, with the same scores but for rounding."""
    assert [[e[:2] for e in h.emissions] for h in one] == [[e[:2] for e in h.emissions] for h in other]
    assert [e[2] for h in one for e in h.emissions] == pytest.approx(
        [e[2] for h in other for e in h.emissions]
    )
    assert [h.score for h in one] == pytest.approx([h.score for h in other])


@torch.inference_mode()
def every_text(
    head: Any, y: Tensor, penalty: float = 0.0, wanted: Sequence[bool] | None = None
) -> dict[tuple[int, ...], float]:
    """(U, D) -> the log-probability of every text: the sum over all paths, counted one by one.

    wanted: of durations, the frames that are looked at; at others, the next is waited for.
    """
    sums = defaultdict(list)
    vocabulary = head.output.weight.shape[0]
    if isinstance(head, Transducer) and head.config.tdt is not None:
        for labels, score in every_way(head, y, penalty, wanted or [True] * len(y)):
            sums[labels].append(score)
        return {
            labels: float(torch.tensor(x, dtype=torch.float64).logsumexp(0)) for labels, x in sums.items()
        }
    for path in product(range(vocabulary), repeat=len(y)):
        if isinstance(head, CTC):
            labels = tuple(t for i, t in enumerate(path) if t != BLANK and (i == 0 or path[i - 1] != t))
        else:
            labels = tuple(t for t in path if t != BLANK)
        sums[labels].append(path)
    scores = {}
    for labels, paths in sums.items():
        scores[labels] = float(
            torch.stack([path_score(head, y, path, penalty) for path in paths]).logsumexp(0)
        )
    return scores


def every_way(
    head: Transducer, y: Tensor, penalty: float, wanted: Sequence[bool]
) -> Iterator[tuple[tuple[int, ...], float]]:
    """Each path with durations: what it says, and its score. To stay on a frame is to go on by one."""
    assert head.config.tdt is not None
    durations, encoder = head.config.tdt.durations, head.encoder_projection(y)
    lower = torch.tensor([penalty] + [0.0] * (head.output.out_features - 1))

    @cache
    def scores(u: int, said: tuple[int, ...]) -> tuple[list[float], list[float]]:
        known = head.predictor_projection(head.predictor(torch.tensor([said], dtype=torch.int64))[0, -1])
        tokens = (head.join(encoder[u], known) - lower).log_softmax(-1)
        return tokens.tolist(), head.join_durations(encoder[u], known).log_softmax(-1).tolist()

    def ways(u: int, said: tuple[int, ...], score: float) -> Iterator[tuple[tuple[int, ...], float]]:
        if u >= len(y):
            yield said, score
            return
        if not wanted[u]:
            yield from ways(u + 1, said, score)
            return
        for (token, by_token), (frames, by_duration) in product(
            enumerate(scores(u, said)[0]), zip(durations, scores(u, said)[1], strict=True)
        ):
            now = said if token == BLANK else (*said, token)
            yield from ways(u + max(frames, 1), now, score + by_token + by_duration)

    return ways(0, (), 0.0)


def path_score(head: Any, y: Tensor, path: tuple[int, ...], penalty: float) -> Tensor:
    """One token or blank a frame."""
    if isinstance(head, CTC):
        x = head.log_probabilities(y)
    else:
        said = [token for token in path if token != BLANK]
        known = head.predictor_projection(head.predictor(torch.tensor([said], dtype=torch.int64))[0])
        count = torch.tensor([0, *(token != BLANK for token in path)]).cumsum(0)[:-1]
        x = head.join(head.encoder_projection(y), known[count])
    x = torch.cat([x[:, :1] - penalty, x[:, 1:]], 1).log_softmax(-1)
    return x[torch.arange(len(y)), torch.tensor(path)].sum()
