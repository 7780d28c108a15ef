"""Forced alignment: audio and its text -> when each word was said, by the best path through the CTC head (Viterbi).

Recordings of at most `WHOLE` seconds are aligned together, exactly. Longer ones go through the model as a stream and
are aligned in windows: each begins where the one before has settled, and holds every place that can be reached in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from asr import audio
from asr.audio import HOP, SAMPLE_RATE
from asr.encoders import FULL_CONTEXT
from asr.errors import AudioError, ConfigError, DataError
from asr.heads import BLANK, CTC
from asr.search.phrases import as_written
from asr.tokenizer import UNKNOWN_TEXT, Tokenizer
from asr.transcribe import WHOLE, steps
from asr.transcript import Transcript, Word

if TYPE_CHECKING:
    from asr.model import Model

__all__ = ["Span", "align", "align_files", "spell", "to_ctm", "to_textgrid", "viterbi"]

WINDOW = 1500  # frames that are aligned at once, a minute
MARGIN = 375  # of these, how many are aligned anew with the next window

Audio = str | Path | np.ndarray


@dataclass(frozen=True)
class Span:
    """A token on its frames, from `begin` up to `end`, not included; its highest log-probability on them."""

    begin: int
    end: int
    log_probability: float


@dataclass(frozen=True)
class Spelling:
    """A text's words as they were written, the tokens of all, and which word each belongs to."""

    words: tuple[str, ...]
    tokens: tuple[int, ...]
    word: tuple[int, ...]


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
def _together(
    model: Model, batch: Sequence[tuple[np.ndarray, Spelling]]
) -> list[Transcript | AudioError | DataError]:
    """Short recordings in one batch."""
    device = next(model.parameters()).device
    lens = torch.tensor([len(samples) for samples, _ in batch])
    padded = torch.zeros(len(batch), max(1, int(lens.max())))
    for row, (samples, _) in zip(padded, batch, strict=True):
        row[: len(samples)] = torch.from_numpy(samples)
    y, y_lens = model.encode(*model.flushed(padded.to(device), lens.to(device)), FULL_CONTEXT)
    scores = _ctc(model).log_probabilities(y)
    found = viterbi(scores, y_lens, [spelt.tokens for _, spelt in batch])
    return [
        DataError(_MISFIT) if spans is None else _transcript(model, spelt, spans, len(samples))
        for spans, (samples, spelt) in zip(found, batch, strict=True)
    ]


@torch.inference_mode()
def _long(model: Model, source: Audio, spelt: Spelling) -> Transcript | AudioError | DataError:
    """A recording in windows, in memory that does not depend on its length."""
    chunk = model.chunk_for(model.latencies[-1])
    device = next(model.parameters()).device
    features = model.features.init_state(1)
    encoder: Any = model.encoder.init_state(1, chunk)
    pieces = [source] if isinstance(source, np.ndarray) else audio.blocks(source)
    windows, total = _Windows(spelt.tokens), -model.flush_samples
    try:
        for samples, real in steps(model, pieces, chunk, None):
            lens = torch.tensor([real], device=device)
            x, features = model.features.step(torch.from_numpy(samples)[None].to(device), features)
            y, y_lens, encoder = model.encoder.step(x, -(-lens // HOP), encoder, chunk)
            windows.push(_ctc(model).log_probabilities(y)[0, : int(y_lens)].cpu())
            total += real
    except AudioError as error:
        return error
    spans = windows.finish()
    return DataError(_MISFIT) if spans is None else _transcript(model, spelt, spans, total)


_MISFIT = "the text does not fit the audio: it has more tokens than the audio can hold, or belongs to another recording"


def _ctc(model: Model) -> CTC:
    head: CTC = model.head("ctc")
    return head


@dataclass
class _Windows:
    """Viterbi over a stream of frames (N, V). States: blank, token, blank, token ... blank."""

    tokens: tuple[int, ...]
    waiting: list[Tensor] = field(default_factory=list)
    path: list[tuple[int, float]] = field(
        default_factory=list
    )  # each settled frame's state and log-probability
    at: int = 0

    def push(self, scores: Tensor) -> None:
        self.waiting.append(scores)
        if sum(map(len, self.waiting)) >= WINDOW:
            self._settle(MARGIN)

    def finish(self) -> list[Span] | None:
        fits = self._settle(0, last=True)
        return _spans(self.path, len(self.tokens)) if fits else None

    def _settle(self, margin: int, *, last: bool = False) -> bool:
        scores = torch.cat(self.waiting) if self.waiting else torch.zeros(0, 1)
        states = torch.tensor(_states(self.tokens)[self.at : self.at + 2 * len(scores) + 1])
        emissions, skips = scores[:, states], _skips(states)
        total, back = _trellis(emissions[None], torch.tensor([len(scores)]), skips[None])
        ends = len(_states(self.tokens)) - self.at
        if last and (len(states) < ends - 1 or not bool(total[0, max(0, ends - 2) :].max() > -torch.inf)):
            return False
        end = total[0].argmax() if not last else max(0, ends - 2) + total[0, max(0, ends - 2) :].argmax()
        walked = _backtrace(back, end[None])[0]
        keep = len(scores) - margin
        chosen = emissions[torch.arange(len(scores)), walked][:keep].tolist()
        self.path += [(self.at + s, x) for s, x in zip(walked[:keep].tolist(), chosen, strict=True)]
        self.at += int(walked[keep - 1]) if keep else 0
        self.waiting = [scores[keep:]]
        return True


def viterbi(
    log_probabilities: Tensor, lens: Tensor, tokens: Sequence[Sequence[int]]
) -> list[list[Span] | None]:
    """The best path of each stream: (B, U, V), (B,), B texts -> a span for each token, None where they do not fit."""
    x = log_probabilities.cpu()
    lens = lens.cpu()
    rows = [torch.tensor(_states(one)) for one in tokens]
    states = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    emissions = x.gather(2, states[:, None].expand(-1, x.shape[1], -1))
    total, back = _trellis(emissions, lens, _skips(states))
    ends = torch.tensor([[max(0, len(row) - 2), len(row) - 1] for row in rows])
    which = total.gather(1, ends)
    end = ends.gather(1, which.argmax(1, keepdim=True))[:, 0]
    walked = _backtrace(back, end)
    found: list[list[Span] | None] = []
    for b, one in enumerate(tokens):
        n = int(lens[b])
        if not bool(which[b].max() > -torch.inf):
            found.append(None)
            continue
        path = walked[b, :n]
        found.append(
            _spans(
                list(zip(path.tolist(), emissions[b, torch.arange(n), path].tolist(), strict=True)), len(one)
            )
        )
    return found


def _states(tokens: Sequence[int]) -> list[int]:
    states = [BLANK] * (2 * len(tokens) + 1)
    states[1::2] = tokens
    return states


def _skips(states: Tensor) -> Tensor:
    """(..., W): where a state can be reached from the one before the blank before it."""
    before = torch.nn.functional.pad(states, (2, 0), value=BLANK)[..., :-2]
    allowed = (states != BLANK) & (states != before)
    allowed[..., :2] = False
    return allowed


def _trellis(emissions: Tensor, lens: Tensor, skips: Tensor) -> tuple[Tensor, Tensor]:
    """(B, N, W), (B,), (B, W), begun as if in state 0 -> scores (B, W) after the last frames, steps (N, B, W)."""
    batch, frames, width = emissions.shape
    score = torch.full((batch, width), -torch.inf)
    score[:, 0] = 0.0
    back = torch.zeros(frames, batch, width, dtype=torch.uint8)
    barred = torch.where(skips, 0.0, -torch.inf)
    for u in range(frames):
        padded = torch.nn.functional.pad(score, (2, 0), value=-torch.inf)
        ways = torch.stack([score, padded[:, 1:-1], padded[:, :-2] + barred])
        best, way = ways.max(0)
        real = (u < lens)[:, None]
        score = torch.where(real, best + emissions[:, u], score)
        back[u] = way * real
    return score, back


def _backtrace(back: Tensor, end: Tensor) -> Tensor:
    """Steps (N, B, W) and last states (B,) -> the states of all frames (B, N)."""
    state, path = end, []
    for steps_back in back.flip(0):
        path.append(state)
        state = state - steps_back.gather(1, state[:, None])[:, 0]
    return torch.stack(path[::-1], 1) if path else torch.zeros(len(end), 0, dtype=torch.int64)


def _spans(path: Sequence[tuple[int, float]], tokens: int) -> list[Span]:
    begin, end, best = [0] * tokens, [0] * tokens, [-np.inf] * tokens
    for frame, (state, score) in enumerate(path):
        if state % 2:
            token = state // 2
            begin[token] = begin[token] if end[token] else frame
            end[token], best[token] = frame + 1, max(best[token], score)
    return [Span(*span) for span in zip(begin, end, map(float, best), strict=True)]


def _transcript(model: Model, spelt: Spelling, spans: Sequence[Span], samples: int) -> Transcript:
    duration = samples / SAMPLE_RATE
    words = []
    for number, text in enumerate(spelt.words):
        own = [span for span, word in zip(spans, spelt.word, strict=True) if word == number]
        start = min(round(own[0].begin * model.frame_seconds, 3), duration)
        end = min(round(own[-1].end * model.frame_seconds, 3), duration)
        confidence = float(np.exp(np.mean([span.log_probability for span in own])))
        words.append(Word(text, start, end, confidence))
    return Transcript(tuple(words), duration)


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
