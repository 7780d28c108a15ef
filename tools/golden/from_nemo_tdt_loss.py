"""NeMo's loss with durations, the one in plain torch: writes tests/losses/golden/tdt.safetensors.

python tools/golden/from_nemo_tdt_loss.py       with nemo_toolkit 2.7.3
"""

from __future__ import annotations

from pathlib import Path

import torch
from nemo.collections.asr.losses.rnnt_pytorch import TDTLossPytorch
from safetensors.torch import save_file
from torch import Tensor

GOLDEN = Path(__file__).parents[2] / "tests" / "losses" / "golden"
DURATIONS = ((0, 1, 2, 3, 4), (0, 1, 3), (1, 2))
SIGMA = 0.05
VOCABULARY = 6  # and the blank, which NeMo puts last


def losses() -> dict[str, Tensor]:
    """For each set of durations logits (B, T, S + 1, V + D), losses (B,), and the gradient of their sum."""
    torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign,assignment]  # it asks for a GPU
    make = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, VOCABULARY, (3, 4), generator=make)
    frame_lens, token_lens = torch.tensor([9, 7, 6]), torch.tensor([4, 2, 3])
    out = {"tokens": tokens, "frame_lens": frame_lens, "token_lens": token_lens, "sigma": torch.tensor(SIGMA)}
    for i, durations in enumerate(DURATIONS):
        logits = 2 * torch.randn(3, 9, 5, VOCABULARY + 1 + len(durations), generator=make)
        logits.requires_grad_()
        solver = TDTLossPytorch(VOCABULARY, list(durations), reduction="none", sigma=SIGMA)
        loss = solver(logits, tokens, frame_lens, token_lens)
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        out |= {f"{i}.durations": torch.tensor(durations), f"{i}.logits": logits.detach()}
        out |= {f"{i}.loss": loss.detach(), f"{i}.gradient": gradient}
    return out


if __name__ == "__main__":
    save_file(losses(), GOLDEN / "tdt.safetensors")
