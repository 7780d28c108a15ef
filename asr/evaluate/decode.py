"""Batches of whole utterances -> tokens: seen whole, or brought chunk by chunk as a live session does."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from asr.audio import SAMPLE_RATE
from asr.dataset import DataConfig, Loader
from asr.heads.base import Emission

if TYPE_CHECKING:
    from asr.encoders.base import Chunk
    from asr.model import Model
    from asr.search.config import SearchConfig
    from asr.tokenizer import Tokenizer

__all__ = [
    "Step",
    "cleared",
    "decode",
    "decode_frames",
    "evaluation_loader",
    "spread_loader",
    "stream",
    "stream_steps",
]


@torch.no_grad()
def decode(
    model: Model,
    samples: Tensor,
    lens: Tensor,
    *,
    chunk: Chunk,
    head: str | None = None,
    search: SearchConfig | None = None,
) -> list[list[Emission]]:
    """(B, S) samples, (B,) lengths -> the emissions of each utterance, seen whole with the context of `chunk`.

    That gives what a live session of that chunk gives (see `stream`) at the price of offline decoding.
    """
    y, y_lens = model.encode(*model.flushed(cleared(samples, lens), lens), chunk)
    return decode_frames(model, y, y_lens, head, search)


def decode_frames(
    model: Model, y: Tensor, y_lens: Tensor, head: str | None = None, search: SearchConfig | None = None
) -> list[list[Emission]]:
    """The encoder's frames (B, U, D), (B,) of whole utterances -> the emissions of each."""
    decoder, plan = model.head(head), model.plan(search, len(y), head)
    emissions, state = decoder.step(y, y_lens, decoder.init_state(len(y), plan), plan)
    ends = decoder.finish(state, plan)
    return [found + hypotheses[0].emissions for found, hypotheses in zip(emissions, ends, strict=True)]


class Step(NamedTuple):
    """What B streams show after a step: `final` are new tokens that stay, `open` those after them that may change.

    heard: seconds of audio that had to come for it, the utterance's end for those that ended before; compute: seconds.
    """

    final: list[list[Emission]]
    open: list[list[Emission]]
    heard: list[float]
    compute: float


@torch.no_grad()
def stream_steps(
    model: Model,
    samples: Tensor,
    lens: Tensor,
    *,
    chunk: Chunk,
    head: str | None = None,
    search: SearchConfig | None = None,
) -> Iterator[Step]:
    """Utterances (B, S), (B,) as streams that begin together, step by step up to their ends and the silence after."""
    ends = (lens / SAMPLE_RATE).tolist()
    samples, lens = model.flushed(cleared(samples, lens), lens)
    state = model.init_state(len(samples), chunk, head, search)
    first, following = model.samples_first(chunk), model.samples_next(chunk)
    # What the look-ahead still holds back comes out in the chunk after the last sample.
    steps = max(0, -(-(int(lens.max()) - first) // following)) + 1
    samples = torch.nn.functional.pad(samples, (0, max(0, first + steps * following - samples.shape[1])))
    start = 0
    for i in range(steps + 1):
        size = following if i else first
        real = (lens - start).clamp(0, size)
        began = time.perf_counter()
        final, state = model.step(samples[:, start : start + size], real, state, chunk, head, search)
        if i == steps:
            rest = model.finish(state, head, search)
            final = [new + hypotheses[0].emissions for new, hypotheses in zip(final, rest, strict=True)]
            shown: list[list[Emission]] = [[] for _ in final]
        else:
            shown = model.tail(state, head)
        compute = time.perf_counter() - began
        start += size
        yield Step(final, shown, [min(start / SAMPLE_RATE, end) for end in ends], compute)


def stream(
    model: Model,
    samples: Tensor,
    lens: Tensor,
    *,
    chunk: Chunk,
    head: str | None = None,
    search: SearchConfig | None = None,
) -> list[list[Emission]]:
    """The same as `decode`, with the audio coming chunk by chunk, as a live session brings it."""
    found: list[list[Emission]] = [[] for _ in range(len(samples))]
    for step in stream_steps(model, samples, lens, chunk=chunk, head=head, search=search):
        for all_of_one, new in zip(found, step.final, strict=True):
            all_of_one += new
    return found


def cleared(samples: Tensor, lens: Tensor) -> Tensor:
    """Zeros after each utterance's end: what is there in a batch would be heard in the silence that flushes it."""
    after = torch.arange(samples.shape[1], device=lens.device) >= lens[:, None]
    return samples.masked_fill(after, 0.0)


def spread_loader(
    places: Sequence[str | Path], config: DataConfig, tokenizer: Tokenizer, *, limit: int | None = None
) -> Loader:
    """All of the manifests' utterances, or `limit` of them spread evenly, from long to short."""
    return Loader(places, config, tokenizer, training=False, limit=limit)


def evaluation_loader(
    manifest: str | PathLike[str], tokenizer: Tokenizer, batch_seconds: float, *, limit: int | None = None
) -> Loader:
    """A manifest's utterances as they are, in batches of at most so many seconds."""
    config = DataConfig(
        train=(),
        max_duration=batch_seconds,
        max_seconds=batch_seconds,
        augment=(),
        workers=0,
        bad_share=0.0,
    )
    return spread_loader((os.fspath(manifest),), config, tokenizer, limit=limit)
