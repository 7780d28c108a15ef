"""Batched greedy search against the definition, one stream and one frame at a time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from asr.heads import BLANK, CTC, CTCConfig, Transducer, TransducerConfig
from asr.search.greedy import ctc_greedy
from models import PREDICTORS

VOCABULARY = 7


@given(st.integers(0, 10_000), st.lists(st.integers(0, 12), min_size=1, max_size=4))
def test_ctc(seed: int, frames: list[int]) -> None:
    lens = torch.tensor(frames)
    x = torch.randn(len(frames), 12, VOCABULARY, generator=torch.Generator().manual_seed(seed)).log_softmax(
        -1
    )
    previous, begin = torch.tensor([3] * len(frames)), torch.tensor([5] * len(frames))
    emissions, last = ctc_greedy(x, lens, previous, begin)
    for b, n in enumerate(frames):
        before, expected = 3, []
        for u in range(n):
            token = int(x[b, u].argmax())
            if token not in (BLANK, before):
                expected.append((token, 5 + u, float(x[b, u, token])))
            before = token
        assert [(e.token, e.frame) for e in emissions[b]] == [(t, u) for t, u, _ in expected]
        assert [e.log_probability for e in emissions[b]] == pytest.approx([s for *_, s in expected])
        assert int(last[b]) == before


def naive_transducer(
    head: Transducer, y: Tensor, frames: int, max_symbols: int
) -> list[tuple[int, int, float]]:
    said: list[int] = []
    found = []
    for u in range(frames):
        for _ in range(max_symbols):
            predicted = head.predictor(torch.tensor([said], dtype=torch.int64))[:, -1]
            scores = head.join(head.encoder_projection(y[u]), head.predictor_projection(predicted)[0])
            scores = scores.log_softmax(-1)
            token = int(scores.argmax())
            if token == BLANK:
                break
            found.append((token, u, float(scores[token])))
            said.append(token)
    return found


@torch.inference_mode()
@pytest.mark.parametrize("max_symbols", [1, 2, 4])
@pytest.mark.parametrize("predictor", PREDICTORS)
@pytest.mark.parametrize("seed", range(3))
def test_transducer(max_symbols: int, predictor: str, seed: int) -> None:
    torch.manual_seed(seed)
    config = TransducerConfig(predictor=PREDICTORS[predictor], joiner_dim=8, max_symbols=max_symbols)
    head = Transducer(config, 6, VOCABULARY).eval()
    head.output.weight *= 8
    head.predictor_projection.weight *= 3
    head.output.bias[BLANK] += 2
    y, lens = 2 * torch.randn(5, 40, 6), torch.tensor([40, 39, 17, 1, 0])
    emissions, state = head.step(y, lens, head.init_state(5))
    for b, n in enumerate(lens.tolist()):
        expected = naive_transducer(head, y[b], n, max_symbols)
        assert [(e.token, e.frame) for e in emissions[b]] == [(t, u) for t, u, _ in expected]
        assert [e.log_probability for e in emissions[b]] == pytest.approx([s for *_, s in expected], abs=1e-5)
    assert len(emissions[0]) > 5
    assert state.frame.tolist() == lens.tolist()


def test_ctc_loss_is_the_sum_over_all_alignments() -> None:
    torch.manual_seed(0)
    head = CTC(CTCConfig(), 4, 3).double().eval()
    y = torch.randn(2, 4, 4, dtype=torch.float64)
    tokens = torch.tensor([[1, 1], [2, 1]])
    loss = head.loss(y, torch.tensor([4, 3]), tokens, torch.tensor([2, 2]))["ctc"]
    scores = head.log_probabilities(y)
    for b, n in enumerate((4, 3)):
        total = []
        for path in torch.cartesian_prod(*[torch.arange(3)] * n).tolist():
            merged = [t for i, t in enumerate(path) if t != BLANK and (i == 0 or path[i - 1] != t)]
            if merged == tokens[b].tolist():
                total.append(sum(scores[b, u, t] for u, t in enumerate(path)))
        torch.testing.assert_close(-loss[b], torch.stack(total).logsumexp(0))
