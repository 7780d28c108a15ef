"""The full lattice and FastEmit against warprnnt_numba, which is NeMo's and independent of ours."""

from __future__ import annotations

import pytest
import torch

from asr.losses.transducer import full_loss

warprnnt = pytest.importorskip("warprnnt_numba", reason="pip install warprnnt_numba")


@pytest.mark.parametrize("fastemit", [0.0, 0.3])
def test_losses_and_gradients(fastemit: float) -> None:
    """Its loss counts 1 + fastemit times; the gradients are those of Yu et al. 2021 in both."""
    make = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 9, 5, 7, generator=make)
    tokens = torch.randint(1, 7, (3, 4), generator=make)
    frame_lens, token_lens = torch.tensor([9, 7, 5]), torch.tensor([4, 2, 3])
    theirs = logits.clone().requires_grad_()
    loss = warprnnt.RNNTLossNumba(blank=0, reduction="none", fastemit_lambda=fastemit)
    expected = loss(theirs.log_softmax(-1), tokens.int(), frame_lens.int(), token_lens.int())
    expected.sum().backward()
    ours = logits.clone().requires_grad_()
    found = full_loss(ours, tokens, token_lens, frame_lens, fastemit=fastemit)
    found.sum().backward()
    torch.testing.assert_close(found * (1 + fastemit), expected.flatten(), rtol=1e-4, atol=1e-4)
    assert ours.grad is not None and theirs.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4)
