"""Offline transcription: files of any length, in memory that does not depend on it.

Audio of at most `WHOLE` seconds is seen whole, several files in one batch. Longer audio, and any audio when a latency
is asked for, goes through the model as a stream: the same steps, and so the same words, as a live session.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from asr import audio
from asr.audio import SAMPLE_RATE
from asr.calibration import Calibration
from asr.encoders import FULL_CONTEXT, Chunk
from asr.errors import AudioError
from asr.heads import Emission
from asr.search.config import SearchConfig
from asr.search.phrases import Refused, compile_phrases, mark
from asr.tokenizer import words
from asr.transcript import Transcript

if TYPE_CHECKING:
    from asr.model import Model

__all__ = ["PhraseWarning", "refused", "steps", "transcribe", "transcribe_files"]

WHOLE = 60.0  # seconds
STEP = 10.0  # seconds of a long file that go through the model at once

Audio = str | Path | np.ndarray


class PhraseWarning(UserWarning):
    """Phrases that cannot be boosted, each with why."""


def refused(model: Model, search: SearchConfig | None) -> tuple[Refused, ...]:
    """The phrases that the model cannot write, each with why."""
    if search is None:
        return ()
    return compile_phrases(search.phrases, search.phrase_boost, model.tokenizer).refused


def transcribe(
    model: Model,
    source: Audio,
    *,
    latency_ms: int | None = None,
    head: str | None = None,
    search: SearchConfig | None = None,
) -> Transcript:
    """One file, or samples at 16 kHz. See `Model.transcribe`."""
    if unwritten := refused(model, search):
        told = "; ".join(f"{phrase!r}: {reason}" for phrase, reason in unwritten)
        warnings.warn(f"phrases that cannot be boosted: {told}", PhraseWarning, stacklevel=3)
    ((_, result),) = transcribe_files(model, [source], latency_ms=latency_ms, head=head, search=search)
    if isinstance(result, AudioError):
        raise result
    return result


def transcribe_files(
    model: Model,
    sources: Sequence[Audio],
    *,
    latency_ms: int | None = None,
    head: str | None = None,
    search: SearchConfig | None = None,
    batch_seconds: float = 120.0,
    channel: int | Literal["mix"] = "mix",
    progress: Callable[[float], None] | None = None,
) -> Iterator[tuple[Audio, Transcript | AudioError]]:
    """Each source with its transcript, or with why it could not be read; in the order given.

    `progress` is told seconds of audio as they are done. Files are read as their batch comes; a batch holds at most
    `batch_seconds` of audio, padding included.
    """
    chunk = model.chunk_for(latency_ms)
    model.head(head)
    model.plan(search, 1, head)  # what cannot be had is told before any file is read
    group: list[tuple[Audio, np.ndarray | AudioError]] = []

    def flush() -> Iterator[tuple[Audio, Transcript | AudioError]]:
        readable = [samples for _, samples in group if not isinstance(samples, AudioError)]
        transcripts = iter(_whole(model, readable, head, search)) if readable else iter(())
        for source, samples in group:
            yield source, samples if isinstance(samples, AudioError) else next(transcripts)
        group.clear()

    for source in sources:
        try:
            seconds = (
                len(source) / SAMPLE_RATE if isinstance(source, np.ndarray) else audio.info(source).duration
            )
            whole = chunk.full and (seconds <= WHOLE or not model.latencies)
            if whole:
                samples = _samples(source, channel)
                longest = max([len(samples), *(len(s) for _, s in group if isinstance(s, np.ndarray))])
                if (len(group) + 1) * longest > batch_seconds * SAMPLE_RATE:
                    yield from flush()
                group.append((source, samples))
            else:
                yield from flush()
                pieces = _pieces(source, channel)
                long = model.chunk_for(model.latencies[-1]) if chunk.full else chunk
                yield source, _streamed(model, pieces, long, head, search, progress)
        except AudioError as error:
            if isinstance(source, np.ndarray):
                raise
            group.append((source, error))
            continue
        if progress is not None and whole:
            progress(seconds)
    yield from flush()


def _samples(source: Audio, channel: int | Literal["mix"]) -> np.ndarray:
    if not isinstance(source, np.ndarray):
        return audio.read(source, channel=channel)
    if source.ndim != 1 or not np.issubdtype(source.dtype, np.floating):
        raise AudioError(
            f"samples of shape {source.shape} and type {source.dtype}: give one channel of floats in [-1, 1]"
        )
    return np.asarray(source, np.float32)


def _pieces(source: Audio, channel: int | Literal["mix"]) -> Iterable[np.ndarray]:
    return (
        [_samples(source, channel)]
        if isinstance(source, np.ndarray)
        else audio.blocks(source, channel=channel)
    )


@torch.inference_mode()
def _whole(
    model: Model, batch: Sequence[np.ndarray], head: str | None, search: SearchConfig | None
) -> list[Transcript]:
    lens = torch.tensor([len(samples) for samples in batch])
    padded = torch.zeros(len(batch), max(1, int(lens.max())))
    for row, samples in zip(padded, batch, strict=True):
        row[: len(samples)] = torch.from_numpy(samples)
    device = next(model.parameters()).device
    y, y_lens = model.encode(*model.flushed(padded.to(device), lens.to(device)), FULL_CONTEXT)
    decoder, plan = model.head(head), model.plan(search, len(batch), head)
    emissions, state = decoder.step(y, y_lens, decoder.init_state(len(batch), plan), plan)
    ends = [hypotheses[0].emissions for hypotheses in decoder.finish(state, plan)]
    return [
        _transcript(model, found + end, len(samples), model.calibration(head, FULL_CONTEXT), search)
        for found, end, samples in zip(emissions, ends, batch, strict=True)
    ]


@torch.inference_mode()
def _streamed(
    model: Model,
    pieces: Iterable[np.ndarray],
    chunk: Chunk,
    head: str | None,
    search: SearchConfig | None,
    progress: Callable[[float], None] | None,
) -> Transcript:
    device = next(model.parameters()).device
    state = model.init_state(1, chunk, head, search)
    emissions: list[Emission] = []
    total = -model.flush_samples
    for samples, real in steps(model, pieces, chunk, progress):
        found, state = model.step(
            torch.from_numpy(samples)[None].to(device),
            torch.tensor([real], device=device),
            state,
            chunk,
            head,
            search,
        )
        emissions += found[0]
        total += real
    emissions += model.finish(state, head, search)[0][0].emissions
    return _transcript(model, emissions, total, model.calibration(head, chunk), search)


def steps(
    model: Model, pieces: Iterable[np.ndarray], chunk: Chunk, progress: Callable[[float], None] | None
) -> Iterator[tuple[np.ndarray, int]]:
    """Whole steps of a stream and of the silence after it, each with how many of its samples are real."""
    step = model.samples_next(chunk)
    many = step * max(1, round(STEP * SAMPLE_RATE / step))
    rest = np.zeros(0, np.float32)
    lead = model.samples_first(chunk) - step
    for piece in pieces:
        rest = np.concatenate([rest, piece])
        while len(rest) >= many + lead:
            yield rest[: many + lead], many + lead
            rest, lead = rest[many + lead :], 0
        if progress is not None:
            progress(len(piece) / SAMPLE_RATE)
    rest = np.concatenate([rest, np.zeros(model.flush_samples, np.float32)])
    # What the look-ahead still holds back comes out in the chunk after the last sample.
    whole = lead + step * (-(-max(0, len(rest) - lead) // step) + 1)
    yield np.pad(rest, (0, whole - len(rest))), len(rest)


def _transcript(
    model: Model,
    emissions: Sequence[Emission],
    samples: int,
    calibration: Calibration,
    search: SearchConfig | None,
) -> Transcript:
    duration, seconds = samples / SAMPLE_RATE, model.frame_seconds
    found = tuple(
        words(emissions, model.tokenizer, frame_seconds=seconds, duration=duration, calibration=calibration)
    )
    if search is not None and search.phrases:
        phrases = compile_phrases(search.phrases, search.phrase_boost, model.tokenizer)
        found = mark(found, emissions, phrases, model.tokenizer)
    return Transcript(found, duration)
