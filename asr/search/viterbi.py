"""The best path through CTC's frames for a given text (Viterbi): when each of its tokens was said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from asr.search.emission import BLANK

__all__ = ["Span", "Windows", "viterbi"]

WINDOW = 1500  # frames that are aligned at once, a minute
MARGIN = 375  # of these, how many are aligned anew with the next window


@dataclass(frozen=True)
class Span:
    """A token on its frames, from `begin` up to `end`, not included; its highest log-probability on them."""

    begin: int
    end: int
    log_probability: float


@dataclass
class Windows:
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
    log_probabilities: Tensor,
    lens: Tensor,
    tokens: Sequence[Sequence[int]],
    streams: Sequence[int] | None = None,
) -> list[list[Span] | None]:
    """The best path of each text: (B, U, V), (B,), N texts -> a span for each token, None where they do not fit.

    streams: which one each text belongs to; None: there are B, in order.
    """
    of = torch.arange(len(tokens)) if streams is None else torch.tensor(streams)
    x, lens = log_probabilities.cpu(), lens.cpu()[of]
    rows = [torch.tensor(_states(one)) for one in tokens]
    states = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    emissions = x[of[:, None, None], torch.arange(x.shape[1])[:, None], states[:, None]]
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
