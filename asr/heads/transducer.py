"""RNN transducer (Graves 2012): a predictor of any kind, a joiner, and the losses that train them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from asr.encoders.regularizers import Schedule, Scheduled, set_batch_count
from asr.encoders.zipformer_modules import scaled_linear
from asr.heads.base import BLANK, Emission
from asr.heads.predictors import PredictorConfig, StatelessConfig, build
from asr.losses.transducer import joiner_pruned_loss, pruning_ranges, simple_loss
from asr.search import beam as beams
from asr.search.beam import Beam, Hypothesis
from asr.search.greedy import transducer_greedy
from asr.search.modified import transducer_beam
from asr.search.plan import Plan
from asr.search.prediction import Prediction
from asr.state import map_tree

__all__ = ["Transducer", "TransducerBeam", "TransducerConfig", "TransducerState"]


@dataclass(frozen=True, kw_only=True)
class TransducerConfig:
    """Predictor, width of the joiner, states a frame that pruning keeps.

    The simple loss only guides the pruning; it counts fully at first, and `simple_scale` after `warmup` batches.
    """

    FORMER: ClassVar[Mapping[str, str]] = {"predictor_dim": "predictor.dim", "context": "predictor.context"}

    predictor: PredictorConfig = field(default_factory=StatelessConfig)
    joiner_dim: int = 512
    prune_range: int = 5
    lm_scale: float = 0.25
    am_scale: float = 0.0
    simple_scale: float = 0.5
    warmup: int = 2000
    max_symbols: int = 1  # tokens that greedy decoding allows on one frame


@dataclass(frozen=True)
class TransducerState:
    """Of greedy search. prediction: of the tokens so far; frame: (B,) frames so far; phrases: (B,)."""

    prediction: Prediction
    frame: Tensor
    phrases: Tensor


@dataclass(frozen=True)
class TransducerBeam:
    """prediction: of each hypothesis, its leaves (B, K, ...)."""

    beam: Beam
    prediction: Prediction


class Transducer(Scheduled):
    """Joiner: W tanh(encoder + predictor) + b over V tokens with blank."""

    def __init__(self, config: TransducerConfig, dim: int, vocabulary: int) -> None:
        super().__init__()
        c = self.config = config
        self.predictor = build(c.predictor, vocabulary)
        self.encoder_projection = nn.Linear(dim, c.joiner_dim)
        self.predictor_projection = nn.Linear(c.predictor.dim, c.joiner_dim)
        self.output = nn.Linear(c.joiner_dim, vocabulary)
        self.simple_encoder = scaled_linear(dim, vocabulary, scale=0.25)
        self.simple_predictor = scaled_linear(c.predictor.dim, vocabulary, scale=0.25)
        self.simple_weight = Schedule((0.0, 1.0), (c.warmup, c.simple_scale))
        self.pruned_weight = Schedule((0.0, 0.1), (c.warmup, 1.0))

    def set_batch_count(self, batch_count: float) -> None:
        set_batch_count(self, batch_count)

    def loss(self, y: Tensor, y_lens: Tensor, tokens: Tensor, token_lens: Tensor) -> dict[str, Tensor]:
        """The simple and the pruned loss (Kuang et al. 2022), each with its weight at this stage of training."""
        c = self.config
        predicted = self.predictor(tokens)
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

    def predict(self, token: Tensor, state: Any) -> Prediction:
        """The tokens (N,) that have come and the predictor's state -> what follows, (N, J)."""
        output, state = self.predictor.step(token, state)
        return Prediction(self.predictor_projection(output), state)

    def join(self, encoder: Tensor, predictor: Tensor) -> Tensor:
        """(..., J), (..., J) -> logits (..., V)."""
        logits: Tensor = self.output(torch.tanh(encoder + predictor))
        return logits

    @torch.no_grad()
    def init_state(self, batch: int, plan: Plan | None = None) -> TransducerState | TransducerBeam:
        zero = torch.zeros(batch, dtype=torch.int64, device=self.output.weight.device)
        prediction = self.predict(zero + BLANK, self.predictor.init_state(batch))
        if plan is None or plan.fusion is None:
            return TransducerState(prediction, zero, zero)
        if plan.greedy:
            return TransducerState(prediction, zero, plan.fusion.init(batch, 1).phrases[:, 0])
        beam = beams.start(batch, plan.beam, 1, plan.lag, plan.fusion.init(batch, plan.beam))
        of_each = map_tree(lambda x: torch.stack([x] * plan.beam, 1), prediction)
        return TransducerBeam(beam, of_each)

    def step(
        self, y: Tensor, y_lens: Tensor, state: TransducerState | TransducerBeam, plan: Plan | None = None
    ) -> tuple[list[list[Emission]], TransducerState | TransducerBeam]:
        x = self.encoder_projection(y)
        if isinstance(state, TransducerBeam):
            assert plan is not None
            found, beam, prediction = transducer_beam(
                x, y_lens, state.beam, state.prediction, plan, predict=self.predict, join=self.join
            )
            return found, TransducerBeam(beam, prediction)
        emissions, prediction, phrases = transducer_greedy(
            x, y_lens, state.prediction, state.frame, predict=self.predict,
            join=self.join if plan is None else plan.penalised(self.join), max_symbols=self.config.max_symbols,
            fusion=plan.fusion if plan else None, phrases=state.phrases,
        )  # fmt: skip
        return emissions, TransducerState(prediction, state.frame + y_lens, phrases)

    def tail(self, state: TransducerState | TransducerBeam) -> list[list[Emission]]:
        return beams.best(state.beam) if isinstance(state, TransducerBeam) else [[] for _ in state.frame]

    def finish(
        self, state: TransducerState | TransducerBeam, plan: Plan | None = None
    ) -> list[list[Hypothesis]]:
        if isinstance(state, TransducerBeam):
            assert plan is not None and plan.fusion is not None
            return beams.rank(state.beam, plan.fusion.finish(state.beam.fused))
        return beams.empty(len(state.frame))
