from __future__ import annotations

import torch

from asr.heads import CTC, CTCConfig
from asr.heads.ctc import disagreement


def views(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, 5, 3, dtype=torch.float64, generator=generator).log_softmax(-1)


LENS = torch.tensor([5, 2, 5, 2])


def test_disagreement_is_the_divergence_from_the_other_view():
    x = views()
    wanted = torch.zeros(4, dtype=torch.float64)
    for b in range(4):
        other = x[(b + 2) % 4]
        for u in range(int(LENS[b])):
            for v in range(3):
                wanted[b] += other[u, v].exp() * (other[u, v] - x[b, u, v])
    torch.testing.assert_close(disagreement(x, LENS), wanted)
    alike = x[:2].repeat(2, 1, 1)
    torch.testing.assert_close(disagreement(alike, LENS), torch.zeros(4, dtype=torch.float64))
    poisoned = torch.where(torch.arange(5)[None, :, None] < LENS[:, None, None], x, torch.nan)
    torch.testing.assert_close(disagreement(poisoned, LENS), wanted)


def test_disagreement_has_no_gradient_through_its_target():
    """Against differences of the divergence from a target that stays."""
    x = views().requires_grad_()
    (gradient,) = torch.autograd.grad(disagreement(x, LENS).sum(), x)
    target = x.detach().roll(2, 0)
    inside = torch.arange(5)[None, :, None] < LENS[:, None, None]

    def held(x: torch.Tensor) -> torch.Tensor:
        return (torch.where(inside, target.exp() * (target - x), 0.0)).sum()

    step = 1e-6
    for index in torch.cartesian_prod(torch.arange(4), torch.arange(5), torch.arange(3)).tolist():
        at = torch.zeros_like(x)
        at[tuple(index)] = step
        difference = (held(x.detach() + at) - held(x.detach() - at)) / (2 * step)
        torch.testing.assert_close(gradient[tuple(index)], difference, atol=1e-8, rtol=1e-6)


def test_both_views_bear_one_dropout_each():
    """The disagreement is between the very distributions whose likelihoods are trained."""
    torch.manual_seed(0)
    head = CTC(CTCConfig(dropout=0.5), 8, 3).double()
    y = torch.randn(2, 5, 8, dtype=torch.float64).repeat(2, 1, 1)
    tokens, token_lens = torch.tensor([[1, 2]] * 4), torch.tensor([2] * 4)
    torch.manual_seed(1)
    found = head.loss(y, LENS, tokens, token_lens, views=2)
    torch.manual_seed(1)
    x = head.log_probabilities(y)
    torch.testing.assert_close(found["consistency"], disagreement(x, LENS))
    assert (found["consistency"] > 0).all()
    assert set(head.loss(y, LENS, tokens, token_lens)) == {"ctc"}
