"""Measures on a dev set what a model's tokens say of its words (`asr.calibration`), for each head and latency."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from asr.audio import SAMPLE_RATE
from asr.calibration import Calibration, Heard
from asr.evaluate.decode import cleared, decode_frames
from asr.evaluate.times import Said, matches, said
from asr.text import normalizer
from asr.tokenizer import WordBuilder

if TYPE_CHECKING:
    from asr.dataset import Batch
    from asr.model import Model
    from asr.transcript import Word

__all__ = ["calibrate", "fit_confidence"]

FEWEST = 50  # words, of which nothing is concluded if there are fewer
FLATTEST = 0.05  # how little confidence may rise with that of the tokens
FOLDS = 5
LATEST = 0.6  # seconds that an end is moved by at most
GRID = 0.01


@torch.no_grad()
def calibrate(model: Model, batches: Iterable[Batch]) -> Model:
    """Put into the model's configuration what its heads are found to say, offline and at each latency; returns it.

    Words are told right or wrong as `ModelConfig.scoring` compares them. Times need a CTC head, to align with. What was
    known before is forgotten; of fewer than 50 words of a head, nothing is known afterwards.
    """
    model.config = replace(model.config, calibration=())
    latencies = (None, *model.latencies)
    found = {(head, latency): _Words() for head in model.heads for latency in latencies}
    device, normalize = next(model.parameters()).device, normalizer(model.scoring)
    for batch in batches:
        batch = batch.to(device)
        samples = cleared(batch.samples, batch.sample_lens)
        truths = said(model, samples, batch.sample_lens, batch.texts)
        for latency in latencies:
            y, y_lens = model.encode(*model.flushed(samples, batch.sample_lens), model.chunk_for(latency))
            for head in model.heads:
                for b, emissions in enumerate(decode_frames(model, y, y_lens, head)):
                    builder = WordBuilder(model.tokenizer, frame_seconds=model.frame_seconds)
                    builder.push(emissions)
                    heard = builder.words
                    right = matches(batch.texts[b].split(), [word.text for word in heard], normalize)[1]
                    found[head, latency].heard += builder.heard
                    found[head, latency].right += right
                    if (truth := truths[b]) is not None:
                        pairs = matches([w.text for w in truth.words], [w.text for w in heard], normalize)[0]
                        duration = int(batch.sample_lens[b]) / SAMPLE_RATE
                        found[head, latency].add_times(truth, heard, pairs, duration)
    known = (one.calibration(head, latency) for (head, latency), one in found.items())
    model.config = replace(model.config, calibration=tuple(one for one in known if one is not None))
    return model


@dataclass
class _Words:
    """Of one head at one latency."""

    heard: list[Heard] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)  # how much later words really begin
    ends: list[tuple[float, float, float]] = field(
        default_factory=list
    )  # as emitted, the next word's, the real one

    def add_times(
        self, truth: Said, heard: Sequence[Word], pairs: list[tuple[int, int]], duration: float
    ) -> None:
        for i, j in pairs:
            self.starts.append(truth.words[i].start - heard[j].start)
            following = heard[j + 1].start if j + 1 < len(heard) else np.inf
            self.ends.append((heard[j].end, min(following, duration), truth.words[i].end))

    def calibration(self, head: str, latency_ms: int | None) -> Calibration | None:
        if len(self.right) < FEWEST:
            return None
        found = Calibration(head=head, latency_ms=latency_ms, **fit_confidence(self.heard, self.right))
        if len(self.starts) < FEWEST:
            return found
        start = float(np.median(self.starts))
        emitted, following, real = np.array(self.ends).T
        # The next word's start moves, too, and cuts this word's end.
        moves = np.arange(0.0, LATEST + GRID, GRID)[:, None] + min(start, 0.0)
        errors = np.abs(np.minimum(emitted + moves, following + start) - real).mean(1)
        return replace(found, start=round(start, 3), end=round(float(moves[errors.argmin(), 0]), 3))


def fit_confidence(heard: Sequence[Heard], right: Sequence[bool]) -> dict[str, float]:
    """Temperature, bias, tokens and pace of `Calibration`, with the least cross entropy.

    The last ones are 0 but where they foretell words better that they were not fitted on (five folds).
    """
    p, n, t = (np.array(column, np.float64) for column in zip(*heard, strict=True))
    p = np.clip(p, 1e-7, 1 - 1e-7)
    x = np.stack([np.log(p / (1 - p)), np.ones_like(p), np.log(n), np.log(t / n)], 1)
    r, fold = np.array(right, np.float64), np.arange(len(p)) % FOLDS

    def unseen(columns: int) -> float:
        fits = [_fit(x[fold != k, :columns], r[fold != k]) for k in range(FOLDS)]
        return sum(_loss(x[fold == k, :columns], r[fold == k], fits[k]) for k in range(FOLDS))

    best = _fit(x[:, : min((1, 2, 4), key=unseen)], r)
    others = zip(("bias", "tokens", "pace"), best[1:], strict=False)
    return {"temperature": round(1 / float(best[0]), 4)} | {name: round(float(x), 4) for name, x in others}


def _fit(columns: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Logistic regression by Newton's method, with a little pull towards a slope of 1, for words that all are right."""
    rest = np.zeros(columns.shape[1])
    rest[0] = 1.0
    weight = rest.copy()
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(columns @ weight, -30, 30)))
        gradient = columns.T @ (p - right) + (weight - rest)
        hessian = columns.T @ (columns * (p * (1 - p))[:, None]) + np.eye(len(weight))
        step = np.linalg.solve(hessian, gradient)
        weight = weight - step * min(1.0, 1.0 / max(np.abs(step).max(), 1e-12))
        weight[0] = max(weight[0], FLATTEST)
        if np.abs(step).max() < 1e-9:
            break
    return weight


def _loss(columns: np.ndarray, right: np.ndarray, weight: np.ndarray) -> float:
    x = columns @ weight
    return float(np.logaddexp(0, np.where(right > 0, -x, x)).sum())
