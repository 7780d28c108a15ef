"""CTC prefix beam search (Hannun et al. 2014): the probability of a text is the sum over its alignments.

Exact but for the pruning: with a beam that holds every prefix, scores are the sums over all alignments.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from asr.search import beam as beams
from asr.search.beam import Beam, Grown
from asr.search.emission import BLANK, Emission
from asr.search.plan import Plan

__all__ = ["ctc_beam"]


def ctc_beam(
    log_probabilities: Tensor, lens: Tensor, beam: Beam, plan: Plan
) -> tuple[list[list[Emission]], Beam]:
    """The frames (B, U, V), of which each stream has `lens` (B,) -> the tokens that are settled, and the next beam."""
    vocabulary = log_probabilities.shape[-1]
    out: list[list[Emission]] = [[] for _ in lens]
    count = beam.last.shape[1]
    shares = beam.score.new_tensor([-torch.inf, 0.0]).expand_as(beam.score)  # an extension ends in its token
    top = log_probabilities[..., 1:].topk(plan.width(vocabulary), -1).indices + 1
    best = log_probabilities.argmax(-1)
    heard = torch.cat([beam.heard[:, None], best], 1)
    ways = best.masked_fill(best == heard[:, :-1], BLANK)[..., None].expand(-1, -1, count)
    for u, real, due in beams.frames(beam, lens):
        now = log_probabilities[:, u]
        candidates = torch.cat([top[:, u], beam.last], 1)
        tokens = candidates[:, None].expand(-1, count, -1)
        # A token right after itself is another one only if a blank lies between.
        before = torch.where(tokens == beam.last[..., None], beam.score[..., :1], beam.total[..., None])
        gained = now.gather(1, candidates)[:, None].expand_as(tokens)
        bonus, fused = plan.extend(beam, tokens, gained - now.amax(-1)[:, None, None])
        stay = torch.stack(
            [beam.total + now[:, BLANK, None], beam.score[..., 1] + now.gather(1, beam.last)], -1
        )
        beam, parent, token = beams.advance(
            beam,
            Grown(
                stay,
                tokens,
                before + gained + bonus,
                gained,
                shares,
                fused,
                ways[:, u] if plan.follows else None,
            ),
            real,
            plan.sure,
        )
        beam = plan.follow(beam, parent, token)
        if due is not None:
            beam = beams.settle(beam, plan.lag, due, out)
    return out, replace(beam, heard=heard.gather(1, lens[:, None])[:, 0])
