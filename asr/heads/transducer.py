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
from asr.search.greedy import transducer_greedy

__all__ = ["Transducer", "TransducerConfig", "TransducerState"]


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
    """context: (B, C) the last tokens; frame: (B,) frames so far."""

    context: Tensor
    frame: Tensor


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

    def init_state(self, batch: int) -> TransducerState:
        device = self.output.weight.device
        blanks = torch.full((batch, self.config.context), BLANK, dtype=torch.int64, device=device)
        return TransducerState(blanks, torch.zeros(batch, dtype=torch.int64, device=device))

    def step(
        self, y: Tensor, y_lens: Tensor, state: TransducerState
    ) -> tuple[list[list[Emission]], TransducerState]:
        emissions, context = transducer_greedy(
            self.encoder_projection(y), y_lens, state.context, state.frame,
            predict=self.predict, join=self.join, max_symbols=self.config.max_symbols,
        )  # fmt: skip
        return emissions, TransducerState(context, state.frame + y_lens)
