"""Connectionist temporal classification (Graves et al. 2006)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr.heads.base import BLANK, Emission
from asr.search.greedy import ctc_greedy

__all__ = ["CTC", "CTCConfig", "CTCState"]


@dataclass(frozen=True, kw_only=True)
class CTCConfig:
    dropout: float = 0.1


@dataclass(frozen=True)
class CTCState:
    """previous: (B,) the best token of the last frame; frame: (B,) frames so far."""

    previous: Tensor
    frame: Tensor


class CTC(nn.Module):
    """A linear layer over the encoder's frames, V tokens with blank."""

    def __init__(self, config: CTCConfig, dim: int, vocabulary: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(dim, vocabulary)

    def log_probabilities(self, y: Tensor) -> Tensor:
        """(B, U, D) -> (B, U, V)."""
        logits = self.output(self.dropout(y))
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)

    def loss(self, y: Tensor, y_lens: Tensor, tokens: Tensor, token_lens: Tensor) -> dict[str, Tensor]:
        """Minus the log-likelihood of each utterance; infinite where it has more tokens than frames."""
        x = self.log_probabilities(y).transpose(0, 1)
        return {"ctc": F.ctc_loss(x, tokens, y_lens, token_lens, blank=BLANK, reduction="none")}

    def init_state(self, batch: int) -> CTCState:
        zero = torch.zeros(batch, dtype=torch.int64, device=self.output.weight.device)
        return CTCState(zero, zero)

    def step(self, y: Tensor, y_lens: Tensor, state: CTCState) -> tuple[list[list[Emission]], CTCState]:
        emissions, last = ctc_greedy(self.log_probabilities(y), y_lens, state.previous, state.frame)
        return emissions, CTCState(last, state.frame + y_lens)
