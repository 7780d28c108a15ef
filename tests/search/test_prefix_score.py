"""CTC's prefix scores against the sum over every text that begins so, and these against every path."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from asr.search.prefix_score import PrefixScores, text_scores
from tests.search.lattices import ctc, every_text, frames


def walked(x: Tensor, lens: Tensor, text: tuple[int, ...]) -> PrefixScores:
    """The scores of one text in each utterance, a token at a time, among others that are not looked at."""
    scores = PrefixScores.of(x, lens, 2)
    for token in text:
        parent = torch.tensor([[1, 1]] * len(x))
        scores = scores.extend(parent, torch.tensor([[3, token]] * len(x)))
    return scores


@pytest.mark.parametrize("text", [(), (1,), (1, 1), (2, 1), (1, 2, 2)])
@pytest.mark.parametrize("seed", range(3))
def test_sums_over_every_text(text: tuple[int, ...], seed: int) -> None:
    head, y, lens = ctc(4, seed=seed), frames((2, 5), seed), torch.tensor([5, 3])
    x = head.log_probabilities(y).detach()
    scores = walked(x, lens, text)
    ended, further = scores.ended()[:, 1], scores.extensions()[:, 1]
    for b, n in enumerate(lens.tolist()):
        every = every_text(head, y[b, :n])
        assert ended[b].item() == pytest.approx(every.get(text, -torch.inf), abs=1e-9)
        for token in (1, 2, 3):
            longer = [score for t, score in every.items() if t[: len(text) + 1] == (*text, token)]
            expected = torch.tensor(longer, dtype=torch.float64).logsumexp(0) if longer else -torch.inf
            assert further[b, token].item() == pytest.approx(float(expected), abs=1e-9)
        whole = text_scores(x, lens, torch.tensor([[[*text, 0]]] * 2), torch.tensor([[len(text)]] * 2))
        assert whole[b, 0].item() == pytest.approx(every.get(text, -torch.inf), abs=1e-9)


def test_a_thousand_frames_lose_no_digit() -> None:
    """Sums of a thousand frames are large numbers, whose differences are small ones."""
    generator = torch.Generator().manual_seed(0)
    x = (10 * torch.randn(1, 1000, 6, generator=generator, dtype=torch.float64)).log_softmax(-1)
    tokens = torch.randint(1, 6, (40,), generator=generator).tolist()
    lens = torch.tensor([1000])
    expected = text_scores(x, lens, torch.tensor([[tokens]]), torch.tensor([[40]]))[0, 0]
    assert walked(x, lens, tuple(tokens)).ended()[0, 1].item() == pytest.approx(expected.item(), abs=1e-8)
