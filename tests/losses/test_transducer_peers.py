"""The full lattice and FastEmit against torchaudio and warprnnt_numba, which is NeMo's (golden/README.md)."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from asr.losses.transducer import full_loss

GOLDEN = load_file(Path(__file__).parent / "golden" / "rnnt.safetensors")


def test_torchaudio_computes_the_same(kernels: str) -> None:
    ours = GOLDEN["logits"].clone().requires_grad_()
    found = full_loss(ours, GOLDEN["tokens"], GOLDEN["token_lens"], GOLDEN["frame_lens"])
    torch.testing.assert_close(found.detach(), GOLDEN["loss"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        torch.autograd.grad(found.sum(), ours)[0], GOLDEN["gradient"], rtol=1e-4, atol=1e-5
    )


def test_warprnnt_computes_the_same_with_fastemit(kernels: str) -> None:
    """Its loss counts 1 + fastemit times; the gradients are those of Yu et al. 2021 in both."""
    fastemit = float(GOLDEN["fastemit"])
    ours = GOLDEN["logits"].clone().requires_grad_()
    found = full_loss(ours, GOLDEN["tokens"], GOLDEN["token_lens"], GOLDEN["frame_lens"], fastemit=fastemit)
    torch.testing.assert_close(found.detach() * (1 + fastemit), GOLDEN["fastemit_loss"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        torch.autograd.grad(found.sum(), ours)[0], GOLDEN["fastemit_gradient"], rtol=1e-4, atol=1e-5
    )
