"""RNN transducer (Graves 2012) with a stateless predictor (Ghodsi et al. 2020), trained on pruned lattices."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr.encoders.regularizers import Balancer, Schedule, Scheduled, set_batch_count
from asr.encoders.zipformer_modules import scaled_linear
from asr.heads.base import BLANK, Emission
from asr.losses.transducer import joiner_pruned_loss, pruning_ranges, simple_loss
from asr.search import beam as beams
from asr.search.beam import Beam, Hypothesis
from asr.search.greedy import transducer_greedy
from asr.search.modified import transducer_beam
from asr.search.plan import Plan

__all__ = ["Transducer", "TransducerBeam", "TransducerConfig", "TransducerState"]


@dataclass(frozen=True, kw_only=True)
class TransducerConfig:
    """Widths of predictor and joiner, tokens that the predictor sees, states a frame that pruning keeps.

    The simple loss only guides the pruning; it counts fully at first, and `simple_scale` after `warmup` batches.
    """

    predictor_dim: int = 512
    joiner_dim: int = 512
    context: int = 2
    prune_range: int = 5
    lm_scale: float = 0.25
    am_scale: float = 0.0
    simple_scale: float = 0.5
    warmup: int = 2000
    max_symbols: int = 1  # tokens that greedy decoding allows on one frame


@dataclass(frozen=True)
class TransducerState:
    """Of greedy search. context: (B, C) the last tokens; frame: (B,) frames so far; phrases: (B,)."""

    context: Tensor
    frame: Tensor
    phrases: Tensor


@dataclass(frozen=True)
class TransducerBeam:
    """context: (B, K, C) the last tokens of each hypothesis."""

    beam: Beam
    context: Tensor


class StatelessPredictor(nn.Module):
    """Embeddings of the last C tokens through one grouped convolution."""

    def __init__(self, vocabulary: int, dim: int, context: int) -> None:
        super().__init__()
        self.context = context
        self.embedding = nn.Embedding(vocabulary, dim)
        self.balancer_in = Balancer(absolute=(0.5, 1.0), probability=Schedule((0.0, 0.05)))
        self.convolution = nn.Conv1d(dim, dim, context, groups=dim // 4, bias=False)
        self.balancer_out = Balancer(absolute=(0.5, 1.0), probability=Schedule((0.0, 0.05)))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, S + C - 1) -> (B, S, D)."""
        x = self.balancer_in(self.embedding(tokens)).transpose(1, 2)
        return self.balancer_out(self.convolution(x).transpose(1, 2).relu())


class Transducer(Scheduled):
    """Joiner: W tanh(encoder + predictor) + b over V tokens with blank."""

    def __init__(self, config: TransducerConfig, dim: int, vocabulary: int) -> None:
        super().__init__()
        c = self.config = config
        self.predictor = StatelessPredictor(vocabulary, c.predictor_dim, c.context)
        self.encoder_projection = nn.Linear(dim, c.joiner_dim)
        self.predictor_projection = nn.Linear(c.predictor_dim, c.joiner_dim)
        self.output = nn.Linear(c.joiner_dim, vocabulary)
        self.simple_encoder = scaled_linear(dim, vocabulary, scale=0.25)
        self.simple_predictor = scaled_linear(c.predictor_dim, vocabulary, scale=0.25)
        self.simple_weight = Schedule((0.0, 1.0), (c.warmup, c.simple_scale))
        self.pruned_weight = Schedule((0.0, 0.1), (c.warmup, 1.0))

    def set_batch_count(self, batch_count: float) -> None:
        set_batch_count(self, batch_count)

    def loss(self, y: Tensor, y_lens: Tensor, tokens: Tensor, token_lens: Tensor) -> dict[str, Tensor]:
        """The simple and the pruned loss (Kuang et al. 2022), each with its weight at this stage of training."""
        c = self.config
        predicted = self.predictor(F.pad(tokens, (c.context, 0), value=BLANK))
        simple, occupation = simple_loss(
            self.simple_encoder(y), self.simple_predictor(predicted), tokens, token_lens, y_lens,
            lm_scale=c.lm_scale, am_scale=c.am_scale,
        )  # fmt: skip
        ranges = pruning_ranges(occupation, token_lens, y_lens, width=c.prune_range)
        pruned = joiner_pruned_loss(
            self.encoder_projection(y), self.predictor_projection(predicted), self.output.weight, self.output.bias,
            tokens, ranges, token_lens, y_lens,
        )  # fmt: skip
        return {
            "simple": self.now(self.simple_weight) * simple,
            "pruned": self.now(self.pruned_weight) * pruned,
        }

    def predict(self, context: Tensor) -> Tensor:
        """(B, C) -> (B, J)."""
        projected: Tensor = self.predictor_projection(self.predictor(context)[:, 0])
        return projected

    def join(self, encoder: Tensor, predictor: Tensor) -> Tensor:
        """(..., J), (..., J) -> logits (..., V)."""
        logits: Tensor = self.output(torch.tanh(encoder + predictor))
        return logits

    def init_state(self, batch: int, plan: Plan | None = None) -> TransducerState | TransducerBeam:
        device = self.output.weight.device
        blanks = torch.full((batch, self.config.context), BLANK, dtype=torch.int64, device=device)
        zero = torch.zeros(batch, dtype=torch.int64, device=device)
        if plan is None or plan.fusion is None:
            return TransducerState(blanks, zero, zero)
        if plan.greedy:
            return TransducerState(blanks, zero, plan.fusion.init(batch, 1).phrases[:, 0])
        fused = plan.fusion.init(batch, plan.beam)
        return TransducerBeam(
            beams.start(batch, plan.beam, 1, plan.lag, fused), blanks[:, None].repeat(1, plan.beam, 1)
        )

    def step(
        self, y: Tensor, y_lens: Tensor, state: TransducerState | TransducerBeam, plan: Plan | None = None
    ) -> tuple[list[list[Emission]], TransducerState | TransducerBeam]:
        x = self.encoder_projection(y)
        if isinstance(state, TransducerBeam):
            assert plan is not None
            found, beam, context = transducer_beam(
                x, y_lens, state.beam, state.context, plan, predict=self.predict, join=self.join
            )
            return found, TransducerBeam(beam, context)
        emissions, context, phrases = transducer_greedy(
            x, y_lens, state.context, state.frame, predict=self.predict,
            join=self.join if plan is None else plan.penalised(self.join), max_symbols=self.config.max_symbols,
            fusion=plan.fusion if plan else None, phrases=state.phrases,
        )  # fmt: skip
        return emissions, TransducerState(context, state.frame + y_lens, phrases)

    def tail(self, state: TransducerState | TransducerBeam) -> list[list[Emission]]:
        return beams.best(state.beam) if isinstance(state, TransducerBeam) else [[] for _ in state.frame]

    def finish(
        self, state: TransducerState | TransducerBeam, plan: Plan | None = None
    ) -> list[list[Hypothesis]]:
        if isinstance(state, TransducerBeam):
            assert plan is not None and plan.fusion is not None
            return beams.rank(state.beam, plan.fusion.finish(state.beam.fused))
        return beams.empty(len(state.frame))
