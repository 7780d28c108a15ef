"""torchaudio's and warprnnt_numba's numbers: writes rnnt and forced_align.safetensors under tests/.

python tools/golden/from_torchaudio.py      with torchaudio 2.11.0 and warprnnt_numba 0.4.1
"""

from __future__ import annotations

from pathlib import Path

import torch
import warprnnt_numba
from safetensors.torch import save_file
from torch import Tensor
from torchaudio.functional import forced_align, rnnt_loss

TESTS = Path(__file__).parents[2] / "tests"
FASTEMIT = 0.3


def losses() -> dict[str, Tensor]:
    """Logits (B, T, S + 1, V), their losses (B,), and gradients of the losses' sum."""
    make = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(3, 9, 5, 7, generator=make)
    tokens = torch.randint(1, 7, (3, 4), generator=make)
    lens = torch.tensor([9, 7, 5]), torch.tensor([4, 2, 3])
    out = {"logits": logits, "tokens": tokens, "frame_lens": lens[0], "token_lens": lens[1]}
    arguments = [x.int() for x in (tokens, *lens)]
    theirs = logits.clone().requires_grad_()
    loss = rnnt_loss(theirs, *arguments, blank=0, reduction="none")
    out |= {"loss": loss.detach(), "gradient": torch.autograd.grad(loss.sum(), theirs)[0]}
    theirs = logits.clone().requires_grad_()
    solver = warprnnt_numba.RNNTLossNumba(blank=0, reduction="none", fastemit_lambda=FASTEMIT)
    loss = solver(theirs.log_softmax(-1), *arguments).flatten()
    return out | {
        "fastemit": torch.tensor(FASTEMIT),
        "fastemit_loss": loss.detach(),
        "fastemit_gradient": torch.autograd.grad(loss.sum(), theirs)[0],
    }


def alignments() -> dict[str, Tensor]:
    """Log-probabilities (N, U, V), tokens (N, S), and the best path's token of each frame (N, U)."""
    make = torch.Generator().manual_seed(1)
    x = (3 * torch.randn(6, 40, 5, generator=make)).log_softmax(-1)
    tokens = torch.randint(1, 5, (6, 9), generator=make)
    tokens[0] = 3  # the same again and again
    paths = [forced_align(x[i : i + 1], tokens[i : i + 1].int(), blank=0)[0][0] for i in range(len(x))]
    return {"log_probabilities": x, "tokens": tokens, "paths": torch.stack(paths).long()}


if __name__ == "__main__":
    save_file(losses(), TESTS / "losses" / "golden" / "rnnt.safetensors")
    save_file(alignments(), TESTS / "search" / "golden" / "forced_align.safetensors")
