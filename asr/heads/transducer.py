"""RNN transducer (Graves 2012): a predictor of any kind, a joiner, and the losses that train them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from asr.encoders.regularizers import Schedule, Scheduled, set_batch_count
from asr.encoders.zipformer_modules import scaled_linear
from asr.errors import ConfigError
from asr.heads.base import BLANK, Emission
from asr.heads.ctc import CTC
from asr.heads.predictors import PredictorConfig, StatelessConfig, build
from asr.losses.transducer import (
    Activation,
    Joiner,
    joiner_full_loss,
    joiner_pruned_loss,
    joiner_tdt_loss,
    pruning_ranges,
    simple_loss,
)
from asr.search import beam as beams
from asr.search.beam import Beam, Hypothesis
from asr.search.greedy import transducer_greedy
from asr.search.kept import Kept
from asr.search.modified import transducer_beam
from asr.search.plan import Plan
from asr.search.prediction import Prediction
from asr.state import map_tree

__all__ = ["TDTConfig", "Transducer", "TransducerBeam", "TransducerConfig", "TransducerState"]


@dataclass(frozen=True, kw_only=True)
class TDTConfig:
    """Token-and-duration transducer (Xu et al. 2023): with each token or blank, how many frames to go on.

    `sigma`: what each arc costs more in training, so that long durations are preferred. `omega`: weight of the loss
    without durations, which keeps decoding sound where durations err.
    """

    durations: tuple[int, ...] = (0, 1, 2, 3, 4)
    sigma: float = 0.05
    omega: float = 0.1

    def __post_init__(self) -> None:
        ordered = sorted(set(self.durations))
        if list(self.durations) != ordered or min(ordered, default=-1) < 0 or 1 not in ordered:
            raise ConfigError(
                f"tdt.durations: {self.durations}: give different frames, ascending, with 1 among them"
            )
        if not 0 <= self.omega < 1 or self.sigma < 0:
            raise ConfigError("tdt: omega must be from 0 to below 1, and sigma 0 or more")


@dataclass(frozen=True, kw_only=True)
class TransducerConfig:
    """Predictor, joiner, and how they are trained.

    loss: pruned to `prune_range` states a frame (Kuang et al. 2022), or over the full lattice (Graves 2012). The simple
    loss only guides the pruning; it counts fully at first, and `simple_scale` after `warmup` batches. fastemit: how
    much more the gradient of a token counts than that of a blank, so that tokens come sooner (Yu et al. 2021). tdt:
    with durations, over the full lattice.

    Raises ConfigError: durations and a pruned lattice, which has no room for them.
    """

    FORMER: ClassVar[Mapping[str, str]] = {"predictor_dim": "predictor.dim", "context": "predictor.context"}

    predictor: PredictorConfig = field(default_factory=StatelessConfig)
    joiner_dim: int = 512
    joiner_activation: Activation = "tanh"
    loss: Literal["pruned", "full"] = "pruned"
    fastemit: float = 0.0
    tdt: TDTConfig | None = None
    prune_range: int = 5
    lm_scale: float = 0.25
    am_scale: float = 0.0
    simple_scale: float = 0.5
    warmup: int = 2000
    max_symbols: int = 1  # tokens that greedy decoding allows on one frame

    def __post_init__(self) -> None:
        if self.tdt is not None and self.loss == "pruned":
            raise ConfigError("transducer.tdt: durations need the full lattice; set transducer.loss: full")
        if self.fastemit < 0:
            raise ConfigError(f"transducer.fastemit is {self.fastemit}; it must be 0 or more")


@dataclass(frozen=True)
class TransducerState:
    """Of greedy search. prediction: of the tokens so far; frame: (B,) frames so far.

    skip: (B,) frames to come that a duration passes over.
    """

    prediction: Prediction
    frame: Tensor
    skip: Tensor


@dataclass(frozen=True)
class TransducerBeam:
    """prediction: of each hypothesis, its leaves (B, K, ...)."""

    beam: Beam
    prediction: Prediction


class Transducer(Scheduled):
    """Joiner: W tanh(encoder + predictor) + b over V tokens with blank; with TDT, over the durations, too."""

    searches = ("greedy", "beam")
    keeps_back = False

    def __init__(self, config: TransducerConfig, dim: int, vocabulary: int) -> None:
        super().__init__()
        c = self.config = config
        self._ctc: tuple[CTC, ...] = ()  # no part of this head
        self.predictor = build(c.predictor, vocabulary)
        self.encoder_projection = nn.Linear(dim, c.joiner_dim)
        self.predictor_projection = nn.Linear(c.predictor.dim, c.joiner_dim)
        self.output = nn.Linear(c.joiner_dim, vocabulary)
        if c.tdt is not None:
            self.durations = nn.Linear(c.joiner_dim, len(c.tdt.durations))
        if c.loss == "pruned":
            self.simple_encoder = scaled_linear(dim, vocabulary, scale=0.25)
            self.simple_predictor = scaled_linear(c.predictor.dim, vocabulary, scale=0.25)
        self.simple_weight = Schedule((0.0, 1.0), (c.warmup, c.simple_scale))
        self.pruned_weight = Schedule((0.0, 0.1), (c.warmup, 1.0))

    def spare_by(self, ctc: CTC) -> None:
        """Let a CTC head over the same frames say which of them are blank."""
        self._ctc = (ctc,)

    @property
    def spared(self) -> bool:
        return bool(self._ctc)

    def set_batch_count(self, batch_count: float) -> None:
        set_batch_count(self, batch_count)

    def loss(self, y: Tensor, y_lens: Tensor, tokens: Tensor, token_lens: Tensor) -> dict[str, Tensor]:
        """ "simple" and "pruned", each with its weight at this stage of training, or "full" or "tdt"."""
        c = self.config
        predicted = self.predictor(tokens)
        joiner = Joiner(
            self.encoder_projection(y),
            self.predictor_projection(predicted),
            self.output.weight,
            self.output.bias,
        )
        options: dict[str, Any] = {"fastemit": c.fastemit, "activation": c.joiner_activation}
        if c.tdt is not None:
            joiner = joiner._replace(duration_weight=self.durations.weight, duration_bias=self.durations.bias)
            options |= vars(c.tdt)
            return {"tdt": joiner_tdt_loss(joiner, tokens, token_lens, y_lens, **options)}
        if c.loss == "full":
            return {"full": joiner_full_loss(joiner, tokens, token_lens, y_lens, **options)}
        simple, occupation = simple_loss(
            self.simple_encoder(y), self.simple_predictor(predicted), tokens, token_lens, y_lens,
            lm_scale=c.lm_scale, am_scale=c.am_scale,
        )  # fmt: skip
        ranges = pruning_ranges(occupation, token_lens, y_lens, width=c.prune_range)
        pruned = joiner_pruned_loss(joiner, tokens, ranges, token_lens, y_lens, **options)
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
        logits: Tensor = self.output(self._hidden(encoder, predictor))
        return logits

    def join_durations(self, encoder: Tensor, predictor: Tensor) -> Tensor:
        """(..., J), (..., J) -> logits of the durations (..., D)."""
        logits: Tensor = self.durations(self._hidden(encoder, predictor))
        return logits

    def frames_to_go(self, encoder: Tensor, predictor: Tensor) -> Tensor:
        """(..., J), (..., J) -> the most probable duration (...)."""
        assert self.config.tdt is not None
        frames = torch.tensor(self.config.tdt.durations, device=encoder.device)
        return frames[self.join_durations(encoder, predictor).argmax(-1)]

    def moves(self, encoder: Tensor, predictor: Tensor, *, single: bool = False) -> Tensor:
        """(..., J), (..., J) -> log-probabilities (..., P) float64 of going on by 1 to P frames, the longest duration.

        To stay is to go on by 1, where there is one token a frame. single: of the most probable duration alone.
        """
        assert self.config.tdt is not None
        steps = [max(frames, 1) - 1 for frames in self.config.tdt.durations]
        x = self.join_durations(encoder, predictor).double().log_softmax(-1)
        if single:
            best = x.argmax(-1, keepdim=True)
            x = torch.full_like(x, -torch.inf).scatter(-1, best, x.gather(-1, best))
        if steps[:2] == [0, 0]:
            x = torch.cat([x[..., :2].logsumexp(-1, keepdim=True), x[..., 2:]], -1)
        moves = x.new_full((*x.shape[:-1], steps[-1] + 1), -torch.inf)
        moves[..., sorted(set(steps))] = x
        return moves

    def _hidden(self, encoder: Tensor, predictor: Tensor) -> Tensor:
        x = encoder + predictor
        return x.relu() if self.config.joiner_activation == "relu" else x.tanh()

    @torch.no_grad()
    def init_state(self, batch: int, plan: Plan | None = None) -> TransducerState | TransducerBeam:
        zero = torch.zeros(batch, dtype=torch.int64, device=self.output.weight.device)
        prediction = self.predict(zero + BLANK, self.predictor.init_state(batch))
        if plan is None or plan.fusion is None:
            return TransducerState(prediction, zero, zero)
        fused, neural = plan.fusion.init(batch, plan.beam), plan.fusion.start(batch, plan.beam)
        parts = 1 if self.config.tdt is None else self.config.tdt.durations[-1]
        beam = beams.start(batch, plan.beam, parts, plan.lag, fused, neural)
        of_each = map_tree(lambda x: torch.stack([x] * plan.beam, 1), prediction)
        return TransducerBeam(beam, of_each)

    def step(
        self,
        y: Tensor,
        y_lens: Tensor,
        state: TransducerState | TransducerBeam,
        plan: Plan | None = None,
    ) -> tuple[list[list[Emission]], TransducerState | TransducerBeam]:
        x, kept = self.encoder_projection(y), None
        if plan is not None and plan.blank_skip is not None:
            blank = self._ctc[0].log_probabilities(y)[..., BLANK]
            kept = Kept.where(blank <= plan.blank_skip[:, None], y_lens)
        if isinstance(state, TransducerBeam):
            assert plan is not None
            # A beam of one follows a single path, as greedy search does.
            moves = (
                None
                if self.config.tdt is None
                else partial(self.moves, single=plan.beam == 1 or plan.follows)
            )
            found, beam, prediction = transducer_beam(
                x, y_lens, state.beam, state.prediction, plan, predict=self.predict, join=self.join, moves=moves,
                kept=kept,
            )  # fmt: skip
            return found, TransducerBeam(beam, prediction)
        emissions, prediction, skip = transducer_greedy(
            x, y_lens, state.prediction, state.frame, predict=self.predict,
            join=self.join if plan is None else plan.penalised(self.join), max_symbols=self.config.max_symbols,
            durations=None if self.config.tdt is None else self.frames_to_go, skip=state.skip, kept=kept,
            alike=plan is None,
        )  # fmt: skip
        skip = skip if self.config.tdt is not None else state.skip
        return emissions, TransducerState(prediction, state.frame + y_lens, skip)

    def tail(self, state: TransducerState | TransducerBeam) -> list[list[Emission]]:
        return beams.best(state.beam) if isinstance(state, TransducerBeam) else [[] for _ in state.frame]

    def finish(
        self, state: TransducerState | TransducerBeam, plan: Plan | None = None
    ) -> list[list[Hypothesis]]:
        if isinstance(state, TransducerBeam):
            assert plan is not None and plan.fusion is not None
            return beams.rank(state.beam, plan.fusion.finish(state.beam.fused))
        return beams.empty(len(state.frame))
