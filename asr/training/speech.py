"""Speech models as a subject of training: a chunk size for each batch, SpecAugment, losses of heads, word errors."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from random import Random
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from asr.audio import HOP, SAMPLE_RATE
from asr.dataset import Batch
from asr.dataset.augment import SpecAugment, Spectral
from asr.encoders.base import FULL_CONTEXT
from asr.evaluate.calibrate import calibrate
from asr.training.blockwise import blocks_of
from asr.training.losses import losses
from asr.training.measure import measure
from asr.training.subject import Example, Measured

if TYPE_CHECKING:
    from asr.model import Model

__all__ = ["Speech"]

log = logging.getLogger("asr.training")


class Speech:
    """See `Subject`. `augment` comes after the first `plain_epochs`, and makes so many `views` of each utterance."""

    unit = "s"

    def __init__(
        self,
        model: Model,
        *,
        augment: Spectral | SpecAugment | None = None,
        plain_epochs: int = 0,
        views: int = 1,
    ) -> None:
        self.model = model
        self.augment, self.plain_epochs, self.views = augment, plain_epochs, views
        self.chunk = FULL_CONTEXT

    def scheduled(self) -> Iterable[Any]:
        return (self.model.encoder, *self.model.heads.values())

    def blocks(self) -> list[nn.Module]:
        return blocks_of(self.model.encoder)

    def draw(self, random: Random) -> None:
        self.chunk = random.choice(self.model.encoder.chunk_sizes)

    def trainable(self, batch: Batch) -> Batch | None:
        """The batch without utterances that have more tokens than the model has frames: CTC cannot align them."""
        frames = batch.sample_lens // (HOP * self.model.encoder.subsampling)
        repeats = (batch.tokens[:, 1:] == batch.tokens[:, :-1]) & (
            torch.arange(1, batch.tokens.shape[1], device=frames.device) < batch.token_lens[:, None]
        )
        fits = batch.token_lens + repeats.sum(dim=1) <= frames
        if bool(fits.all()):
            return batch
        keep = fits.nonzero()[:, 0].tolist()
        for i in sorted(set(range(len(batch.ids))) - set(keep)):
            log.warning(
                "left out %s: %d tokens in %d frames of the model; its text is another's, or too dense: %r",
                batch.ids[i], batch.token_lens[i], frames[i], batch.texts[i],
            )  # fmt: skip
        if not keep:
            return None
        return Batch(
            ids=tuple(batch.ids[i] for i in keep),
            samples=batch.samples[keep],
            sample_lens=batch.sample_lens[keep],
            tokens=batch.tokens[keep],
            token_lens=batch.token_lens[keep],
            texts=tuple(batch.texts[i] for i in keep),
        )

    def losses(self, batch: Batch, *, epochs: float) -> tuple[dict[str, Tensor], Tensor]:
        augment = self.augment if epochs >= self.plain_epochs else None
        views = self.views if augment is not None else 1
        return losses(self.model, batch, self.chunk, augment=augment, views=views)

    def amount(self, batch: Batch) -> float:
        return float(batch.sample_lens.sum()) / SAMPLE_RATE

    def room(self, batch: Batch) -> float:
        return batch.samples.numel() / SAMPLE_RATE

    def notes(self) -> dict[str, Any]:
        return {"chunk_frames": self.chunk.frames}

    def measure(self, dev: Iterable[Batch], *, example: Example | None = None) -> Measured:
        found = measure(self.model, dev, example=example)
        latency = self.model.latency_ms
        return Measured(found.score, found.scalars(latency), found.references, found.heard(latency))

    def calibrate(self, dev: Iterable[Batch]) -> None:
        calibrate(self.model, dev)

    def tell(self, score: float) -> str:
        return f"{100 * score:.2f} % word errors"

    def facts(self) -> dict[str, str]:
        model = self.model
        size = sum(p.numel() for p in model.parameters()) / 1e6
        return {
            "model": f"{size:.1f} M parameters, {model.tokenizer.size} tokens, heads: {', '.join(model.heads)}",
            "latencies": ", ".join(f"{ms} ms" for ms in model.latencies) or "offline only",
        }
