"""Beam search over token sequences, for B streams of K hypotheses at once: what CTC and transducer have in common.

Hypotheses are told apart by a hash of their tokens, so that equal ones can be found and merged without a loop. A token
is settled once it is `lag_frames` old, or up to `EVERY` frames later: hypotheses that do not share it with the best one
are given up. What each remembers of its tokens is thus bounded, and how the frames are split does not matter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from asr import state as trees
from asr.search.emission import BLANK, Emission
from asr.search.fusion import Fused
from asr.search.kept import Kept
from asr.search.lent import LEAST, select
from asr.search.prediction import Prediction

if TYPE_CHECKING:
    from asr.search.plan import Plan

__all__ = [
    "EVERY", "Beam", "Grown", "Hypothesis", "advance", "best", "cut", "empty", "frames", "leader", "rank", "rows",
    "settle", "start", "wait",
]  # fmt: skip

EVERY = 8  # frames from one settling to the next
_SEED, _FACTOR, _STEP = 0x2545F4914F6CDD1D, -0x61C8864680B583EB, 0x5851F42D4C957F2D


class Hypothesis(NamedTuple):
    """Tokens that may follow those already emitted, and the score of all: natural log-probability and additions."""

    emissions: list[Emission]
    score: float


@dataclass(frozen=True)
class Beam:
    """score: (B, K, P) float64, parts of a hypothesis that are scored apart (CTC: ends in a blank, or in its token;
    transducer with durations: has 0, 1 ... frames to pass over before it goes on).

    key: (B, K) int64, the hash of all its tokens; last: (B, K) the last of them, blank if none.
    tail: (B, K, L, 3) float64, the token, frame and log-probability of those not settled; length: (B, K) how many.
    fused: what n-grams and phrases remember; neural: what a neural language model lets expect, () without one.
    plain: (B, K) bool, those that are not lent. frame: (B,) frames so far; heard: (B,) CTC's best token of the last.
    """

    score: Tensor
    key: Tensor
    last: Tensor
    tail: Tensor
    length: Tensor
    fused: Fused
    neural: Prediction | tuple[()]
    plain: Tensor
    frame: Tensor
    heard: Tensor

    @property
    def total(self) -> Tensor:
        """(B, K), without what phrases are worth."""
        return self.score.logsumexp(-1)

    @property
    def worth(self) -> Tensor:
        """(B, K): what hypotheses would be worth if nothing more came; lent ones nothing without a whole phrase."""
        total = self.total + self.fused.kept
        return total.masked_fill(~self.plain & (self.fused.kept < LEAST), -torch.inf)


def start(
    batch: int, beam: int, parts: int, lag: int, fused: Fused, neural: Prediction | tuple[()] = ()
) -> Beam:
    """One hypothesis of nothing a stream; the other places are free, which is a score of minus infinity."""
    device = fused.word.device
    score = torch.full((batch, beam, parts), -torch.inf, dtype=torch.float64, device=device)
    score[:, 0, 0] = 0.0
    zero = torch.zeros(batch, beam, dtype=torch.int64, device=device)
    # Of hypotheses that share their oldest token's place, each adds a token a frame at most.
    tail = torch.zeros(batch, beam, 2 * (lag + EVERY) + 1, 3, dtype=torch.float64, device=device)
    plain, first = torch.ones_like(zero, dtype=torch.bool), zero[:, 0]
    return Beam(score, zero + _SEED, zero, tail, zero, fused, neural, plain, first.clone(), first.clone())


class Grown(NamedTuple):
    """What a frame makes possible. stay: (B, K, P), no new token; tokens: (B, K, C + K), candidates and, for the sake
    of merging, the last tokens of all hypotheses; score, log_probability: theirs; shares: (B, K, P), logarithms of what
    each part gets of an extension's score; fused: (B, K * (C + K)), or unused.
    way: (B, K), the token by which greedy search goes on from each hypothesis, blank for none; None: another search.
    """

    stay: Tensor
    tokens: Tensor
    score: Tensor
    log_probability: Tensor
    shares: Tensor
    fused: Fused | None
    way: Tensor | None


def advance(beam: Beam, grown: Grown, real: Tensor | None, sure: int) -> tuple[Beam, Tensor, Tensor]:
    """The K best after a frame, which K parents (B, K) they come from and with which new tokens (blank: none).

    real: (B,) the streams that have this frame; None: all of them. sure: places that are not lent.
    """
    streams, count = beam.last.shape
    width = grown.tokens.shape[-1] - count
    own = torch.arange(count, device=beam.last.device).expand(streams, -1)
    # A hypothesis that is another's extension takes over its probability: [parent, hypothesis].
    alive = beam.total > -torch.inf
    child = _hash(beam.key[:, :, None], beam.last[:, None]) == beam.key[:, None]
    child &= alive[:, None] & (beam.last[:, None] != BLANK)
    child &= beam.plain[:, :, None] | ~beam.plain[:, None]  # what is lent adds to nothing else
    mass, source = grown.score[..., width:].masked_fill(~child, -torch.inf).max(1)
    dominated = mass > grown.stay.logsumexp(-1)  # its times are then those of the stronger path
    stay = torch.logaddexp(grown.stay, mass[..., None] + rows(grown.shares, source))
    score, index = select(beam, grown, stay.logsumexp(-1), child, sure)
    stays, kept = index < count, index.clamp(max=count - 1)
    at = (index - count).clamp(min=0)
    of, column = at // width, at % width
    place = of * (width + count) + column  # of the extension in (K, C + K)
    shared = source.gather(1, kept) * (width + count) + width + kept  # of the one that was merged
    dominated = dominated.gather(1, kept)
    parent = torch.where(stays, torch.where(dominated, source.gather(1, kept), own.gather(1, kept)), of)
    place = torch.where(stays, shared, place)
    token = grown.tokens.flatten(1).gather(1, place).masked_fill(stays & ~dominated, BLANK)

    key, last = beam.key.gather(1, parent), beam.last.gather(1, parent)
    length = beam.length.gather(1, parent)
    log_probability = grown.log_probability.flatten(1).gather(1, place)
    entry = torch.stack([token, beam.frame[:, None].expand_as(token), log_probability.double()], -1)
    fused = beam.fused
    if grown.fused is not None:
        # Where a stronger path leads to the same tokens, phrases stand where they do on that one.
        same = stays & ~dominated
        new = place.masked_fill(same, 0)
        fused = trees.map_tree(
            lambda own, extended: torch.where(
                same.view(*stays.shape, *[1] * (own.dim() - 2)), rows(own, kept), rows(extended, new)
            ),
            beam.fused,
            grown.fused,
        )
    after = Beam(
        score=torch.where(
            (stays & (score > -torch.inf))[..., None],
            rows(stay, kept),
            score[..., None] + rows(grown.shares, parent),
        ),
        key=torch.where(token == BLANK, key, _hash(key, token)),
        last=torch.where(token == BLANK, last, token),
        # Written behind the end where there is no new token: there it is not read.
        tail=rows(beam.tail, parent).scatter(
            2, length[..., None, None].expand(-1, -1, 1, 3), entry[:, :, None]
        ),
        length=length + (token != BLANK),
        fused=fused,
        neural=beam.neural,  # `Plan.follow` sees to it
        plain=(torch.arange(count, device=beam.last.device) < sure).expand(streams, -1),
        frame=beam.frame + 1,
        heard=beam.heard,
    )
    if real is not None:
        after = trees.where(real, after, beam)
        parent = torch.where(real[:, None], parent, own)
        token = token.masked_fill(~real[:, None], BLANK)
    return after, parent, token


def frames(
    beam: Beam, lens: Tensor, kept: Kept | None = None
) -> Iterator[tuple[int, Tensor | None, Tensor | None]]:
    """Frame by frame of a step, of those `kept`: its number among them; the streams (B,) that have it, None if all;
    those to settle after it.
    """
    lens = lens if kept is None else kept.lens
    begin, ends = beam.frame.tolist(), lens.tolist()
    places = [range(end) for end in ends] if kept is None else kept.places.tolist()
    for u in range(max(ends, default=0)):
        real = None if u < min(ends) else u < lens
        due = [
            u < end and (first + place[u] + 1) % EVERY == 0
            for first, end, place in zip(begin, ends, places, strict=True)
        ]
        yield u, real, torch.tensor(due, device=lens.device) if any(due) else None


def wait(beam: Beam, frame: Tensor, plan: Plan, out: list[list[Emission]]) -> Beam:
    """Let time pass without frames, up to `frame` (B,): what would have been settled in between is."""
    last = frame.div(EVERY, rounding_mode="floor") * EVERY
    due = last > beam.frame
    if bool(due.any()):
        beam = replace(beam, frame=torch.where(due, last, beam.frame))
        beam = settle(beam, plan.lag, due, out)
    return replace(beam, frame=frame)


def settle(beam: Beam, lag: int, due: Tensor, out: list[list[Emission]]) -> Beam:
    """For the streams that are `due` (B,), append what is settled to `out` and cut it off the hypotheses."""
    found, beam = cut(beam, leader(beam), beam.frame - lag, due)
    for settled, new in zip(out, found, strict=True):
        settled += new
    return beam


def leader(beam: Beam) -> Tensor:
    """(B, 1): each stream's best hypothesis."""
    return beam.worth.argmax(1, keepdim=True)


def cut(beam: Beam, chosen: Tensor, before: Tensor, due: Tensor) -> tuple[list[list[Emission]], Beam]:
    """For the streams that are `due` (B,), what the `chosen` (B, 1) hypothesis said `before` a frame (B,), and the beam
    without it: hypotheses that did not say the same are given up.
    """
    position = torch.arange(beam.tail.shape[2], device=due.device)
    tokens, emitted, _ = beam.tail.unbind(-1)
    old = ((emitted < before[:, None, None]) & (position < beam.length[..., None])).sum(-1)
    lead, length = rows(beam.tail, chosen), beam.length.gather(1, chosen)
    count = torch.where(due, old.gather(1, chosen)[:, 0], 0)
    if not bool(((old.amax(1) > 0) & due).any()):
        return [[] for _ in due], beam
    # Both sides' settled tokens must be the other's too, though the other may have them a little later.
    same = (tokens == lead[..., 0]) & (position < torch.minimum(beam.length, length)[..., None])
    agrees = same.long().cumprod(-1).sum(-1) >= torch.maximum(old, count[:, None])
    gone = due[:, None] & ~agrees
    found = [_emissions(lead[b, 0, :n]) for b, n in enumerate(count.tolist())]
    shift = (position + count[:, None]).clamp(max=len(position) - 1)
    tail = rows(beam.tail.transpose(1, 2), shift).transpose(1, 2)
    latest = lead[..., 1].gather(2, (count - 1).clamp(min=0)[:, None, None])
    earliest = torch.where((count > 0)[:, None, None], latest, 0)
    tail = torch.cat([tail[..., :1], torch.maximum(tail[..., 1:2], earliest[..., None]), tail[..., 2:]], -1)
    score = beam.score.masked_fill(gone[..., None], -torch.inf)
    length = (beam.length - count[:, None]).clamp(min=0)
    return found, _level(replace(beam, score=score, tail=tail, length=length), chosen, due)


def _level(beam: Beam, chosen: Tensor, due: Tensor) -> Beam:
    """A phrase that all hypotheses have decides nothing more. Where all are lent, search goes on from the `chosen`."""
    alive = beam.total > -torch.inf
    common = beam.fused.kept.masked_fill(~alive, torch.inf).amin(1, keepdim=True).clamp(min=0)
    common = torch.where(due[:, None] & (common < torch.inf), common, 0.0)
    fused = replace(beam.fused, boost=beam.fused.boost - common, kept=beam.fused.kept - common)
    orphaned = due & ~(beam.plain & alive).any(1)
    plain = beam.plain.scatter(1, chosen, beam.plain.gather(1, chosen) | orphaned[:, None])
    return replace(beam, fused=fused, plain=plain)


def rank(beam: Beam, bonus: Tensor) -> list[list[Hypothesis]]:
    """Each stream's hypotheses, best first, with `bonus` (B, K) added to their scores; a text once."""
    scores, order = (beam.worth - beam.fused.kept + bonus).sort(dim=1, descending=True, stable=True)
    tails, lengths = rows(beam.tail, order), beam.length.gather(1, order).tolist()
    keys, found = beam.key.gather(1, order).tolist(), []
    for b, of_stream in enumerate(scores.tolist()):
        first = {keys[b][k]: k for k in reversed(range(len(of_stream))) if of_stream[k] > -torch.inf}
        places = sorted(first.values())
        found.append([Hypothesis(_emissions(tails[b, k, : lengths[b][k]]), of_stream[k]) for k in places])
    return found


def best(beam: Beam) -> list[list[Emission]]:
    """What the best hypothesis of each stream has said since what is settled: text that may still change."""
    first = leader(beam)
    tails, lengths = rows(beam.tail, first), beam.length.gather(1, first)[:, 0].tolist()
    return [_emissions(tails[b, 0, :n]) for b, n in enumerate(lengths)]


def empty(batch: int) -> list[list[Hypothesis]]:
    """What follows a search that keeps nothing back."""
    return [[Hypothesis([], 0.0)] for _ in range(batch)]


def _emissions(rows: Tensor) -> list[Emission]:
    return [Emission(int(token), int(frame), score) for token, frame, score in rows.tolist()]


def _hash(key: Tensor, token: Tensor) -> Tensor:
    mixed = token * _STEP + _SEED
    return key * _FACTOR + (mixed ^ (mixed >> 29))


def rows(x: Tensor, index: Tensor) -> Tensor:
    """(B, N, ...), (B, M) -> (B, M, ...): the rows of each stream that are named."""
    return x.gather(1, index.view(*index.shape, *[1] * (x.dim() - 2)).expand(-1, -1, *x.shape[2:]))
