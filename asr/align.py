"""Forced alignment: audio and its text -> when each word was said, by the best path through the CTC head (Viterbi).

Recordings of at most `WHOLE` seconds are aligned together, exactly. Longer ones go through the model as a stream and
are aligned in windows: each begins where the one before has settled, and holds every place that can be reached in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from asr import audio
from asr.audio import HOP, SAMPLE_RATE
from asr.edges import edges, loudness, sounding
from asr.encoders import FULL_CONTEXT
from asr.errors import AudioError, ConfigError, DataError
from asr.heads import CTC
from asr.search.phrases import as_written
from asr.search.viterbi import Span, Windows, viterbi
from asr.tokenizer import UNKNOWN_TEXT, Tokenizer
from asr.transcribe import WHOLE, steps
from asr.transcript import Transcript, Word

if TYPE_CHECKING:
    from asr.model import Model

__all__ = ["Alignment", "Spelling", "align", "align_batch", "align_files", "spell", "to_ctm", "to_textgrid"]

Audio = str | Path | np.ndarray


@dataclass(frozen=True)
class Spelling:
    """A text's words as they were written, the tokens of all, and which word each belongs to."""

    words: tuple[str, ...]
    tokens: tuple[int, ...]
    word: tuple[int, ...]


@dataclass(frozen=True)
class Alignment:
    """Words in time, and the frames of the tokens that they are made of."""

    words: tuple[Word, ...]
    spans: tuple[Span, ...]


def align(model: Model, source: Audio, text: str) -> Transcript:
    """The words of `text` as written, with their times and confidences, in a recording of any length.

    A recording or samples at 16 kHz; case as the model's, and punctuation that the model cannot write is passed over.
    Raises AudioError: it cannot be read. DataError: the model cannot write the text, or it does not fit the audio.
    ConfigError: the model has no CTC head.
    """
    ((_, result),) = align_files(model, [(source, text)])
    if isinstance(result, Exception):
        raise result
    return result


def align_files(
    model: Model, pairs: Sequence[tuple[Audio, str]], *, batch_seconds: float = 120.0
) -> Iterator[tuple[Audio, Transcript | AudioError | DataError]]:
    """Each recording with its words in time, or with why there are none; in order. See `align`."""
    if "ctc" not in model.heads:
        raise ConfigError("alignment needs a CTC head, which this model lacks")
    group: list[tuple[Audio, np.ndarray | AudioError | DataError, Spelling | None]] = []

    def flush() -> Iterator[tuple[Audio, Transcript | AudioError | DataError]]:
        ready = [(s, spelt) for _, s, spelt in group if isinstance(s, np.ndarray) and spelt is not None]
        done = iter(_together(model, ready) if ready else ())
        for source, samples, _ in group:
            yield source, next(done) if isinstance(samples, np.ndarray) else samples
        group.clear()

    for source, text in pairs:
        try:
            spelt = spell(text, model.tokenizer)
            seconds = (
                len(source) / SAMPLE_RATE if isinstance(source, np.ndarray) else audio.info(source).duration
            )
            if seconds > WHOLE and model.latencies:
                yield from flush()
                yield source, _long(model, source, spelt)
                continue
            samples = source if isinstance(source, np.ndarray) else audio.read(source)
            longest = max([len(samples), *(len(s) for _, s, _ in group if isinstance(s, np.ndarray))])
            if (len(group) + 1) * longest > batch_seconds * SAMPLE_RATE:
                yield from flush()
            group.append((source, samples, spelt))
        except (AudioError, DataError) as error:
            group.append((source, error, None))
    yield from flush()


def spell(text: str, tokenizer: Tokenizer) -> Spelling:
    """Raises DataError: a letter or digit that the model cannot write, or no letters at all."""
    words, written = [], []
    for word in text.split():
        kept = "".join(c for c in as_written(word, tokenizer) if _writable(c, tokenizer))
        if kept:
            words.append(word)
            written.append(kept)
    tokens = tokenizer.encode(" ".join(written))
    if not tokens:
        raise DataError("there are no words to align: the text is empty, or punctuation alone")
    starts = [i == 0 or tokenizer.piece(token).startswith(("▁", " ")) for i, token in enumerate(tokens)]
    return Spelling(tuple(words), tuple(tokens), tuple(np.cumsum(starts) - 1))


def _writable(character: str, tokenizer: Tokenizer) -> bool:
    try:
        tokens = tokenizer.encode(character)
        rough = UNKNOWN_TEXT in tokenizer.decode(tokens)
        unheard = rough or any(tokenizer.piece(token).startswith("<0x") for token in tokens)
    except DataError:
        rough = unheard = True
    if rough and character.isalnum():
        raise DataError(f"the model cannot write {character!r} of the text: spell it as the model would")
    return character.isalnum() or not unheard


@torch.inference_mode()
def align_batch(
    model: Model, samples: Tensor, lens: Tensor, spelt: Sequence[Spelling]
) -> list[Alignment | None]:
    """(B, S) samples, zeros behind each one's length (B,), and their texts; None where a text does not fit."""
    y, y_lens = model.encode(*model.flushed(samples, lens), FULL_CONTEXT)
    found = viterbi(_ctc(model).log_probabilities(y), y_lens, [spelling.tokens for spelling in spelt])
    heard = [loudness(row[:n].cpu().numpy()) for row, n in zip(samples, lens.tolist(), strict=True)]
    return [
        None if spans is None else _alignment(model, spelling, spans, decibels, n / SAMPLE_RATE)
        for spans, spelling, decibels, n in zip(found, spelt, heard, lens.tolist(), strict=True)
    ]


def _together(
    model: Model, batch: Sequence[tuple[np.ndarray, Spelling]]
) -> list[Transcript | AudioError | DataError]:
    """Short recordings in one batch."""
    device = next(model.parameters()).device
    lens = torch.tensor([len(samples) for samples, _ in batch])
    padded = torch.zeros(len(batch), max(1, int(lens.max())))
    for row, (samples, _) in zip(padded, batch, strict=True):
        row[: len(samples)] = torch.from_numpy(samples)
    found = align_batch(model, padded.to(device), lens.to(device), [spelt for _, spelt in batch])
    return [
        DataError(_MISFIT) if alignment is None else Transcript(alignment.words, len(samples) / SAMPLE_RATE)
        for alignment, (samples, _) in zip(found, batch, strict=True)
    ]


@torch.inference_mode()
def _long(model: Model, source: Audio, spelt: Spelling) -> Transcript | AudioError | DataError:
    """A recording in windows, in memory that does not depend on its length."""
    chunk = model.chunk_for(model.latencies[-1])
    device = next(model.parameters()).device
    features = model.features.init_state(1)
    encoder: Any = model.encoder.init_state(1, chunk)
    pieces = [source] if isinstance(source, np.ndarray) else audio.blocks(source)
    windows, total = Windows(spelt.tokens), -model.flush_samples
    heard: list[np.ndarray] = []
    try:
        for samples, real in steps(model, pieces, chunk, None):
            lens = torch.tensor([real], device=device)
            x, features = model.features.step(torch.from_numpy(samples)[None].to(device), features)
            y, y_lens, encoder = model.encoder.step(x, -(-lens // HOP), encoder, chunk)
            windows.push(_ctc(model).log_probabilities(y)[0, : int(y_lens)].cpu())
            heard.append(loudness(samples[:real]))
            total += real
    except AudioError as error:
        return error
    spans, duration = windows.finish(), total / SAMPLE_RATE
    if spans is None:
        return DataError(_MISFIT)
    decibels = np.concatenate(heard)[: total // HOP]
    return Transcript(_alignment(model, spelt, spans, decibels, duration).words, duration)


_MISFIT = "the text does not fit the audio: it has more tokens than the audio can hold, or belongs to another recording"


def _ctc(model: Model) -> CTC:
    head: CTC = model.head("ctc")
    return head


def _alignment(
    model: Model, spelt: Spelling, spans: Sequence[Span], decibels: np.ndarray, duration: float
) -> Alignment:
    of_words: list[list[Span]] = [[] for _ in spelt.words]
    for span, word in zip(spans, spelt.word, strict=True):
        of_words[word].append(span)
    seconds = model.frame_seconds
    times = edges(
        [(own[0].begin * seconds, own[-1].end * seconds) for own in of_words], sounding(decibels), duration
    )
    words = [
        Word(text, start, end, float(np.exp(np.mean([span.log_probability for span in own]))))
        for text, (start, end), own in zip(spelt.words, times, of_words, strict=True)
    ]
    return Alignment(tuple(words), tuple(spans))


def to_ctm(transcript: Transcript, name: str, *, channel: int = 1) -> str:
    """NIST's format: recording, channel, start, duration, word, confidence."""
    return "".join(
        f"{name} {channel} {w.start:.3f} {w.end - w.start:.3f} {w.text} {w.confidence:.4f}\n"
        for w in transcript.words
    )


def to_textgrid(transcript: Transcript) -> str:
    """Praat's format: one tier of words, and empty intervals between them."""
    intervals, at = [], 0.0
    for word in transcript.words:
        if word.start > at:
            intervals.append((at, word.start, ""))
        if word.end > max(at, word.start):
            intervals.append((max(at, word.start), word.end, word.text.replace('"', '""')))
            at = word.end
    if transcript.duration > at:
        intervals.append((at, transcript.duration, ""))
    head = f'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n{transcript.duration}\n<exists>\n1\n'
    tier = f'"IntervalTier"\n"words"\n0\n{transcript.duration}\n{len(intervals)}\n'
    return head + tier + "".join(f'{begin}\n{end}\n"{text}"\n' for begin, end, text in intervals)
