"""One-pass beam search by attention and CTC together (Watanabe et al. 2017): one more token of every text at a time.

All utterances and all their texts are one tensor. A text scores (1 - w) of what the decoder gives its tokens and its
end, w of CTC's prefix score, and what its length, language models and phrases add. A text ends when its end is among
the K best, and not too improbable beside the best token where a plan has a threshold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from asr import state as trees
from asr.search.beam import rows
from asr.search.emission import BLANK
from asr.search.plan import Plan
from asr.search.prefix_score import PrefixScores

__all__ = ["joint_beam"]

SLACK = 10.0  # what additions may still make up for, where there are any

Predict = Callable[[Tensor, Any], tuple[Tensor, Any]]
"""The next tokens (B, K, 1) and the state of those before -> log-probabilities (B, K, 1, V), and the next state."""


def joint_beam(
    predict: Predict,
    past: Any,
    lens: Tensor,
    *,
    beam: int,
    sos_eos: int,
    weight: Tensor,
    ctc: Tensor | None = None,
    plan: Plan | None = None,
) -> list[list[list[int]]]:
    """The tokens of each utterance's texts, best first: at least one, at most `beam`.

    past: of texts without tokens; its leaves are (B, K, ...). lens: (B,) frames; no text has more tokens. weight: (B,)
    of CTC; ctc: (B, U, V) its log-probabilities, float64, or None where it weighs nothing. plan: what is added.
    """
    batch, device = len(lens), lens.device
    fusion = plan.fusion if plan is not None and plan.fusion is not None and plan.fusion.used else None
    fused, neural = (None, ()) if fusion is None else (fusion.init(batch, beam), fusion.start(batch, beam))
    prefixes = None if ctc is None else PrefixScores.of(ctc, lens, beam)
    share, sure = weight.double()[:, None], beam if plan is None else min(plan.sure, beam)
    per_token = torch.zeros_like(share) if plan is None else plan.length_bonus[:, None]
    slack = [SLACK if fusion is not None or bonus > 0 else 0.0 for bonus in per_token[:, 0].tolist()]
    attended, added = torch.zeros(2, batch, beam, dtype=torch.float64, device=device)
    alive = torch.zeros(batch, beam, dtype=torch.bool, device=device)
    alive[:, 0] = True
    tokens = torch.full((batch, beam, 1), sos_eos, dtype=torch.int64, device=device)
    found: list[list[tuple[float, list[int]]]] = [[] for _ in range(batch)]
    for length in range(int(lens.max()) + 1 if batch else 0):
        scores, past = predict(tokens[..., -1:], past)
        following = attended[..., None] + scores[:, :, 0].double()
        joint = (1 - share)[..., None] * following
        end = joint[..., sos_eos] + added
        if prefixes is not None:
            joint = joint + _weighed(share[..., None], prefixes.extensions())
            end = end + _weighed(share, prefixes.ended())
        joint[..., [BLANK, sos_eos]] = -torch.inf
        joint = joint.masked_fill(~(alive & (lens > length)[:, None])[..., None], -torch.inf)
        end = end.masked_fill(~alive, -torch.inf)
        if plan is not None:  # where there is room for a token more, an end may be too improbable
            early = scores[:, :, 0, sos_eos] < plan.end_threshold[:, None] * scores[:, :, 0].amax(-1)
            end = end.masked_fill(early & (lens > length)[:, None], -torch.inf)
        count = min(joint.shape[-1], beam if fusion is None or plan is None else plan.width(joint.shape[-1]))
        best, candidates = joint.topk(count, -1)
        more, extended = (added + per_token)[..., None].expand_as(best), None
        lent = kept = torch.zeros_like(best)  # what phrases are worth
        if fusion is not None and fused is not None and plan is not None:
            bonus, extended = fusion.extend(fused, candidates)
            more = more + bonus + fusion.likely(neural, candidates)
            end = end + fusion.finish(fused)
            lent, kept = extended.boost.view(best.shape), extended.kept.view(best.shape)
        lent, kept = (torch.cat([best + more + x, end[..., None]], -1).flatten(1) for x in (lent, kept))
        total, index = _select(lent, kept, beam, sure)
        parent, column = index // (count + 1), index % (count + 1)
        ends = (column == count) & (total > -torch.inf)
        for b, k in ends.nonzero().tolist():
            found[b].append((float(total[b, k]), tokens[b, parent[b, k], 1:].tolist()))
        total = total.masked_fill(column == count, -torch.inf)
        done = _done(found, total, beam, slack)
        if bool(done.all()):
            break
        total = total.masked_fill(done[:, None], -torch.inf)
        place = parent * count + column.clamp(max=count - 1)
        token = candidates.flatten(1).gather(1, place)
        tokens = torch.cat([rows(tokens, parent), token[..., None]], -1)
        attended = following.gather(2, candidates).flatten(1).gather(1, place)
        alive = total > -torch.inf
        added = more.flatten(1).gather(1, place)
        past = trees.map_tree(lambda x, parent=parent: rows(x, parent), past)
        if prefixes is not None:
            prefixes = prefixes.extend(parent, token)
        if extended is not None:
            fused = trees.map_tree(lambda x, place=place: rows(x, place), extended)
        if fusion is not None:
            neural = fusion.follow(neural, parent, token)
    return [[text for _, text in sorted(texts, key=lambda t: -t[0])[:beam]] or [[]] for texts in found]


def _select(lent: Tensor, kept: Tensor, count: int, sure: int) -> tuple[Tensor, Tensor]:
    """(B, N) -> the best scores and their places (B, K): `sure` of them by what phrases have earned, so that what is
    lent to them cannot push the others out."""
    first = kept.topk(sure).indices
    rest, places = lent.scatter(1, first, -torch.inf).topk(count - sure)
    return torch.cat([lent.gather(1, first), rest], 1), torch.cat([first, places], 1)


def _weighed(share: Tensor, scores: Tensor) -> Tensor:
    """Nothing times minus infinity is nothing here."""
    return torch.where(share > 0, share * scores, 0.0)


def _done(found: list[list[tuple[float, list[int]]]], total: Tensor, beam: int, slack: list[float]) -> Tensor:
    """(B,): no text that goes on can still be among the best of its utterance, as scores only fall."""
    done = []
    for texts, best, more in zip(found, total.amax(1).tolist(), slack, strict=True):
        kth = sorted((score for score, _ in texts), reverse=True)[beam - 1 : beam]
        done.append(best == -torch.inf or bool(kth and best <= kth[0] - more))
    return torch.tensor(done, device=total.device)
