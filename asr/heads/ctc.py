"""Connectionist temporal classification (Graves et al. 2006)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr.errors import ConfigError
from asr.heads.base import BLANK, Emission
from asr.search import beam as beams
from asr.search.beam import Beam, Hypothesis
from asr.search.greedy import ctc_greedy
from asr.search.plan import Plan
from asr.search.prefix import ctc_beam

__all__ = ["CTC", "CTCConfig", "CTCState", "disagreement"]


@dataclass(frozen=True, kw_only=True)
class CTCConfig:
    """inner_layers: layers of the encoder, counted from 1, that must do with CTC, too (Lee and Watanabe 2021), while
    training; Zipformer's layers are its stacks. inner_weight: of the mean of their losses beside the last one's 1.
    self_conditioned: what CTC makes of an inner layer is added to what the next one hears (Nozaki and Komatsu 2021), in
    training and ever after.

    Raises ConfigError: layers out of order; self-conditioned without inner layers.
    """

    dropout: float = 0.1
    inner_layers: tuple[int, ...] = ()
    inner_weight: float = 0.4  # the paper's 0.3 to 0.7
    self_conditioned: bool = False

    def __post_init__(self) -> None:
        if list(self.inner_layers) != sorted(set(self.inner_layers)):
            raise ConfigError(
                f"ctc.inner_layers: {list(self.inner_layers)}: name each once, in ascending order"
            )
        if self.self_conditioned and not self.inner_layers:
            raise ConfigError("ctc.self_conditioned: name the layers, as ctc.inner_layers: [6, 12]")


@dataclass(frozen=True)
class CTCState:
    """Of greedy search. previous: (B,) the best token of the last frame; frame: (B,) frames so far."""

    previous: Tensor
    frame: Tensor


def disagreement(x: Tensor, x_lens: Tensor) -> Tensor:
    """CR-CTC's consistency (Yao et al. 2024), (2B,): D(other view || this view), summed over an utterance's frames.

    x (2B, U, V) log-probabilities of two views, x_lens (2B,). Each view learns from the other as it is: there is no
    gradient through the target, or both could agree on saying nothing.
    """
    target = torch.cat(x.detach().chunk(2)[::-1])
    divergence = F.kl_div(x, target, reduction="none", log_target=True).sum(dim=-1)
    inside = torch.arange(x.shape[1], device=x.device) < x_lens[:, None]
    return divergence.masked_fill(~inside, 0.0).sum(dim=1)


class CTC(nn.Module):
    """A linear layer over the encoder's frames, V tokens with blank.

    layer_dims: of the encoder's layers, for those that `config` names; nothing of theirs runs but in `inner_loss` and
    `condition`.
    Raises ConfigError: the encoder has no such layer.
    """

    searches = ("greedy", "beam")
    keeps_back = False
    spared = False

    def __init__(
        self, config: CTCConfig, dim: int, vocabulary: int, *, layer_dims: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self.config = config
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(dim, vocabulary)
        last = len(layer_dims)
        for layer in config.inner_layers:
            if not 1 <= layer < last:
                raise ConfigError(
                    f"ctc.inner_layers: {layer} is not one of the encoder's {last} before the last"
                )
        self.inner = nn.ModuleDict(
            {str(layer): nn.Linear(layer_dims[layer - 1], dim) for layer in config.inner_layers}
        )
        told = config.inner_layers if config.self_conditioned else ()
        self.told = nn.ModuleDict(
            {str(layer): nn.Linear(vocabulary, layer_dims[layer - 1]) for layer in told}
        )

    def log_probabilities(self, y: Tensor) -> Tensor:
        """(B, U, D) -> (B, U, V)."""
        logits = self.output(self.dropout(y))
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)

    def loss(
        self, y: Tensor, y_lens: Tensor, tokens: Tensor, token_lens: Tensor, *, views: int = 1
    ) -> dict[str, Tensor]:
        """Minus the log-likelihood of each utterance; infinite where it has more tokens than frames.

        With two `views`, the second half of the batch is the first one's utterances in another augmentation, and
        "consistency" is how far the views disagree.
        """
        x = self.log_probabilities(y)
        loss = F.ctc_loss(x.transpose(0, 1), tokens, y_lens, token_lens, blank=BLANK, reduction="none")
        return {"ctc": loss} if views == 1 else {"ctc": loss, "consistency": disagreement(x, y_lens)}

    def inner_loss(
        self, inner: Mapping[int, Tensor], y_lens: Tensor, tokens: Tensor, token_lens: Tensor
    ) -> Tensor:
        """The weighted mean of CTC's losses after inner layers (B,), from their frames (B, U', D') by layer.

        The output layer is the last one's, as in the paper.
        """
        found = []
        for layer, frames in inner.items():
            x = self.log_probabilities(self.inner[str(layer)](frames[:, : int(y_lens.max())]))
            found.append(
                F.ctc_loss(x.transpose(0, 1), tokens, y_lens, token_lens, blank=BLANK, reduction="none")
            )
        return self.config.inner_weight * torch.stack(found).mean(dim=0)

    def condition(self, layer: int, x: Tensor) -> Tensor:
        """An inner layer's frames (B, U', D'), and what CTC makes of each of them: what the next layer gets."""
        heard = self.log_probabilities(self.inner[str(layer)](x)).exp()
        told: Tensor = self.told[str(layer)](heard.to(x.dtype))
        return x + told

    def init_state(self, batch: int, plan: Plan | None = None) -> CTCState | Beam:
        if plan is not None and plan.fusion is not None:
            fused, neural = plan.fusion.init(batch, plan.beam), plan.fusion.start(batch, plan.beam)
            return beams.start(batch, plan.beam, 2, plan.lag, fused, neural)
        zero = torch.zeros(batch, dtype=torch.int64, device=self.output.weight.device)
        return CTCState(zero, zero)

    def step(
        self, y: Tensor, y_lens: Tensor, state: CTCState | Beam, plan: Plan | None = None
    ) -> tuple[list[list[Emission]], CTCState | Beam]:
        x = self.log_probabilities(y)
        if plan is not None and plan.penalty is not None:
            x = plan.penalise(x)
        if isinstance(state, Beam):
            assert plan is not None
            return ctc_beam(x, y_lens, state, plan)
        emissions, last = ctc_greedy(x, y_lens, state.previous, state.frame)
        return emissions, CTCState(last, state.frame + y_lens)

    def tail(self, state: CTCState | Beam) -> list[list[Emission]]:
        return beams.best(state) if isinstance(state, Beam) else [[] for _ in state.frame]

    def finish(self, state: CTCState | Beam, plan: Plan | None = None) -> list[list[Hypothesis]]:
        if isinstance(state, Beam):
            assert plan is not None and plan.fusion is not None
            return beams.rank(state, plan.fusion.finish(state.fused))
        return beams.empty(len(state.frame))
