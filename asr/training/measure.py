"""How good a model in training is: losses and word errors on the dev set, by real decoding."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from asr.encoders.base import FULL_CONTEXT, Chunk
from asr.evaluate import Errors, count_errors, decode_frames
from asr.text import normalizer
from asr.training.losses import head_losses

if TYPE_CHECKING:
    from asr.dataset import Batch
    from asr.heads.base import Emission
    from asr.model import Model

__all__ = ["Measured", "measure", "streaming_chunk"]


def streaming_chunk(chunks: Iterable[Chunk]) -> Chunk | None:
    """The one to validate beside full context: the middle of those that stream."""
    found = sorted((chunk for chunk in chunks if not chunk.full), key=lambda chunk: chunk.frames)
    return found[len(found) // 2] if found else None


@dataclass(frozen=True)
class Measured:
    """Of a dev set: losses per frame by name; word errors by head and chunk, with the texts as they were compared."""

    losses: dict[str, float]
    errors: dict[tuple[str, Chunk], Errors]
    references: dict[str, str] = field(default_factory=dict)
    hypotheses: dict[tuple[str, Chunk], dict[str, str]] = field(default_factory=dict)

    @property
    def score(self) -> float:
        """The word error rate that runs are compared by: the best head's mean over offline and streamed."""
        heads = {head for head, _ in self.errors}
        rates = [[e.rate for (head, _), e in self.errors.items() if head == one] for one in heads]
        return min(sum(found) / len(found) for found in rates)

    def scalars(self, latency_ms: Callable[[Chunk], int]) -> dict[str, float]:
        """Losses, and word error rates in per cent, by name; `latency_ms` of a chunk names the streamed ones."""
        named = {f"dev/{name}": value for name, value in self.losses.items()}
        for (head, chunk), errors in self.errors.items():
            named[f"dev/WER {_way(head, chunk, latency_ms)}"] = 100 * errors.rate
        return named

    def heard(self, latency_ms: Callable[[Chunk], int]) -> dict[str, dict[str, str]]:
        """The hypotheses, by the same names."""
        return {_way(head, chunk, latency_ms): texts for (head, chunk), texts in self.hypotheses.items()}


def _way(head: str, chunk: Chunk, latency_ms: Callable[[Chunk], int]) -> str:
    return head if chunk.full else f"{head} {latency_ms(chunk)} ms"


@torch.no_grad()
def measure(
    model: Model,
    dev: Iterable[Batch],
    *,
    example: Callable[[str, Batch, list[Emission]], None] | None = None,
) -> Measured:
    """Losses in full context, and word errors of each head offline and streamed, of texts as `model.scoring` says.

    example: called once for each head with a batch, and what was decoded offline of its last utterance.
    """
    chunks = [FULL_CONTEXT]
    if (streaming := streaming_chunk(model.encoder.chunk_sizes)) is not None:
        chunks.append(streaming)
    device, normalize = next(model.parameters()).device, normalizer(model.scoring)
    sums: dict[str, float] = {}
    frames = 0
    errors: dict[tuple[str, Chunk], Errors] = {}
    references: dict[str, str] = {}
    hypotheses: dict[tuple[str, Chunk], dict[str, str]] = {}
    for number, batch in enumerate(dev):
        batch = batch.to(device)
        wanted = [normalize(text) for text in batch.texts]
        references |= zip(batch.ids, wanted, strict=True)
        for chunk in chunks:
            y, y_lens = model.encode(*model.flushed(batch.samples, batch.sample_lens), chunk)
            if chunk.full:
                frames += int(y_lens.sum())
                for name, loss in head_losses(model, y, y_lens, batch).items():
                    sums[name] = sums.get(name, 0.0) + float(loss.sum())
            for head in model.heads:
                found = decode_frames(model, y, y_lens, head)
                texts = [
                    normalize(model.tokenizer.decode([e.token for e in emissions])) for emissions in found
                ]
                hypotheses.setdefault((head, chunk), {}).update(zip(batch.ids, texts, strict=True))
                errors[head, chunk] = errors.get((head, chunk), Errors()) + count_errors(wanted, texts)
                if number == 0 and chunk.full and example is not None:
                    example(head, batch, found[-1])
    means = {name: value / max(frames, 1) for name, value in sums.items()}
    return Measured(means, errors, references, hypotheses)
