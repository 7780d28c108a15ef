"""Which hypotheses of a beam go on after a frame: the best, and with phrases, some that are lent a place.

Lent places are for hypotheses that hold a phrase, whole or begun. They are ranked with what phrases are worth, begin
with any hypothesis, and end where the phrase breaks off. The other places are those of the search without phrases:
nothing lent adds to their scores or takes their room. So a list changes a text only where a phrase fires.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from asr.search.emission import BLANK

if TYPE_CHECKING:
    from asr.search.beam import Beam, Grown

__all__ = ["LEAST", "select"]

LEAST = 1e-6  # a phrase is worth more; what was lent and given back leaves rounding only


def select(beam: Beam, grown: Grown, stay: Tensor, child: Tensor, sure: int) -> tuple[Tensor, Tensor]:
    """Scores and places (B, K) among hypotheses that stay and then their extensions, (B, K + K * C).

    stay: (B, K) scores, with those of extensions that are another hypothesis: `child` (B, K, K) of the first, the
    second. sure: places that are not lent.
    """
    count = beam.last.shape[1]
    width = grown.tokens.shape[-1] - count
    tokens, extended = grown.tokens[..., :width], grown.score[..., :width]
    same = (tokens[..., None] == beam.last[:, None, None]) & child[:, :, None]
    if count == sure:
        return _all(stay, _but(extended, same.any(-1))).topk(count)
    assert grown.fused is not None
    plain = beam.plain
    twins = (beam.key[:, :, None] == beam.key[:, None]) & plain[:, :, None] & ~plain[:, None]
    twin = (twins & (beam.total > -torch.inf)[:, None]).any(-1)  # its text has a lent place, too
    ours = _all(_but(stay, ~plain), _but(extended, _any(same, plain) | ~plain[..., None]))
    theirs = _all(_but(stay, twin), _but(extended, _any(same, ~plain) | twin[..., None]))
    new = (x.view(grown.tokens.shape)[..., :width] for x in (grown.fused.boost, grown.fused.phrases))
    boost, state = (_all(*pair) for pair in zip((beam.fused.boost, beam.fused.phrases), new, strict=True))
    inside = state > 0
    if grown.way is not None:  # greedy search: each goes on in one way, but for phrases
        way = grown.way
        on = (tokens == way[..., None]) & (way != BLANK)[..., None]
        straight = _all((way == BLANK) | (way == beam.last) & ~plain, on)
        ours, theirs = _but(ours, ~straight), _but(theirs, ~(straight | inside))
    score, places = ours.topk(sure)
    ranks, others = _but(theirs + boost, (boost < LEAST) & ~inside).topk(count - sure)
    lent = _but(theirs.gather(1, others), ranks == -torch.inf)
    score, places = torch.cat([score, lent], 1), torch.cat([places, others], 1)
    return score, places.masked_fill(
        score == -torch.inf, 0
    )  # where there is none, a copy that counts for nothing


def _all(stay: Tensor, extended: Tensor) -> Tensor:
    """(B, K), (B, K, C) -> (B, K + K * C)."""
    return torch.cat([stay, extended.flatten(1)], 1)


def _but(scores: Tensor, out: Tensor) -> Tensor:
    return scores.masked_fill(out, -torch.inf)


def _any(same: Tensor, among: Tensor) -> Tensor:
    """(B, K, C, K), (B, K) -> (B, K, C)."""
    return (same & among[:, None, None]).any(-1)
