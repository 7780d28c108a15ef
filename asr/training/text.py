"""Language models as a subject of training: texts, the log-probability of their tokens, perplexity."""

from __future__ import annotations

import math
from collections.abc import Iterable
from random import Random
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from asr.dataset import Batch
from asr.training.subject import Example, Measured

if TYPE_CHECKING:
    from asr.language_model.neural import NeuralLM

__all__ = ["Text"]


class Text:
    """See `Subject`. A text's size is its tokens and its end."""

    unit = "tokens"

    def __init__(self, model: NeuralLM) -> None:
        self.model = model

    def scheduled(self) -> Iterable[Any]:
        return ()

    def blocks(self) -> list[nn.Module]:
        return list(getattr(self.model.predictor, "blocks", ()))

    def draw(self, random: Random) -> None:
        pass

    def trainable(self, batch: Batch) -> Batch | None:
        return batch

    def losses(self, batch: Batch, *, epochs: float) -> tuple[dict[str, Tensor], Tensor]:
        return {"text": self.model.loss(batch.tokens, batch.token_lens)}, batch.token_lens + 1

    def amount(self, batch: Batch) -> float:
        return float(batch.token_lens.sum()) + len(batch.ids)

    def room(self, batch: Batch) -> float:
        return float(batch.tokens.numel()) + len(batch.ids)

    def notes(self) -> dict[str, Any]:
        return {}

    @torch.no_grad()
    def measure(self, dev: Iterable[Batch], *, example: Example | None = None) -> Measured:
        """The perplexity of a token, ends counted."""
        device = self.model.output.weight.device
        total = tokens = 0.0
        for batch in dev:
            batch = batch.to(device)
            total += float(self.model.loss(batch.tokens, batch.token_lens).double().sum())
            tokens += self.amount(batch)
        perplexity = math.exp(total / max(tokens, 1))
        return Measured(perplexity, {"dev/text": total / max(tokens, 1), "dev/perplexity": perplexity})

    def calibrate(self, dev: Iterable[Batch]) -> None:
        pass

    def tell(self, score: float) -> str:
        return f"perplexity {score:.2f}"

    def facts(self) -> dict[str, str]:
        size = sum(p.numel() for p in self.model.parameters()) / 1e6
        kind = self.model.config.kind
        return {
            "model": f"a language model ({kind}), {size:.1f} M parameters, {self.model.tokenizer.size} tokens"
        }
