"""Connectionist temporal classification (Graves et al. 2006)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr.heads.base import BLANK, Emission
from asr.search import beam as beams
from asr.search.beam import Beam, Hypothesis
from asr.search.greedy import ctc_greedy
from asr.search.plan import Plan
from asr.search.prefix import ctc_beam

__all__ = ["CTC", "CTCConfig", "CTCState"]


@dataclass(frozen=True, kw_only=True)
class CTCConfig:
    dropout: float = 0.1


@dataclass(frozen=True)
class CTCState:
    """Of greedy search. previous: (B,) the best token of the last frame; frame: (B,) frames so far; phrases: (B,)."""

    previous: Tensor
    frame: Tensor
    phrases: Tensor


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

    def init_state(self, batch: int, plan: Plan | None = None) -> CTCState | Beam:
        if plan is not None and plan.fusion is not None:
            if not plan.greedy:
                return beams.start(batch, plan.beam, 2, plan.lag, plan.fusion.init(batch, plan.beam))
            phrases = plan.fusion.init(batch, 1).phrases[:, 0]
        else:
            phrases = torch.zeros(batch, dtype=torch.int64, device=self.output.weight.device)
        zero = torch.zeros_like(phrases)
        return CTCState(zero, zero, phrases)

    def step(
        self, y: Tensor, y_lens: Tensor, state: CTCState | Beam, plan: Plan | None = None
    ) -> tuple[list[list[Emission]], CTCState | Beam]:
        x = self.log_probabilities(y)
        if plan is not None and plan.penalty is not None:
            x = plan.penalise(x)
        if isinstance(state, Beam):
            assert plan is not None
            return ctc_beam(x, y_lens, state, plan)
        emissions, last, phrases = ctc_greedy(
            x,
            y_lens,
            state.previous,
            state.frame,
            fusion=plan.fusion if plan else None,
            phrases=state.phrases,
        )
        return emissions, CTCState(last, state.frame + y_lens, phrases)

    def tail(self, state: CTCState | Beam) -> list[list[Emission]]:
        return beams.best(state) if isinstance(state, Beam) else [[] for _ in state.frame]

    def finish(self, state: CTCState | Beam, plan: Plan | None = None) -> list[list[Hypothesis]]:
        if isinstance(state, Beam):
            assert plan is not None and plan.fusion is not None
            return beams.rank(state, plan.fusion.finish(state.fused))
        return beams.empty(len(state.frame))
