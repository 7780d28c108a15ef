"""Modified beam search for transducers: at most one token a frame (as in Kang et al. 2023), equal texts are summed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from asr.search import beam as beams
from asr.search.beam import Beam, Grown
from asr.search.emission import BLANK, Emission
from asr.search.plan import Plan

__all__ = ["transducer_beam"]


def transducer_beam(
    encoder: Tensor,
    lens: Tensor,
    beam: Beam,
    context: Tensor,
    plan: Plan,
    *,
    predict: Callable[[Tensor], Tensor],
    join: Callable[[Tensor, Tensor], Tensor],
) -> tuple[list[list[Emission]], Beam, Tensor]:
    """The tokens that are settled, the next beam, and its contexts.

    encoder: (B, U, J) projected frames; lens: (B,); context: (B, K, C) each hypothesis' last tokens;
    predict: (N, C) -> (N, J); join: (B, 1, J), (B, K, J) -> logits (B, K, V).
    """
    batch, count, _ = context.shape
    out: list[list[Emission]] = [[] for _ in range(batch)]
    predicted = predict(context.flatten(0, 1)).view(batch, count, -1)
    for u, real, due in beams.frames(beam, lens):
        logits = join(encoder[:, u, None], predicted)
        scores = plan.penalise(logits)
        top = scores[..., 1:].topk(plan.width(scores.shape[-1]), -1).indices + 1
        tokens = torch.cat([top, beam.last[:, None].expand(-1, count, -1)], -1)
        bonus, fused = plan.extend(beam.fused, tokens)
        gained = scores.gather(2, tokens)
        stay = beam.score + scores[..., BLANK, None]
        beam, parent, token = beams.advance(
            beam,
            Grown(stay, tokens, beam.score + gained + bonus, gained, fused, plan.loans(beam.fused, fused)),
            real,
        )
        own, new = (parent == torch.arange(count, device=parent.device)).all(), token != BLANK
        if not bool(own & ~new.any()):
            context = context.gather(1, parent[..., None].expand_as(context))
            context = torch.where(
                new[..., None], torch.cat([context[..., 1:], token[..., None]], -1), context
            )
            predicted = predict(context.flatten(0, 1)).view(batch, count, -1)
        if due is not None:
            beam = beams.settle(beam, plan.lag, due, out, plan.owed(beam.fused))
    return out, beam, context
