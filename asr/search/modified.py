"""Modified beam search for transducers: at most one token a frame (as in Kang et al. 2023), equal texts are summed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from asr.search import beam as beams
from asr.search.beam import Beam, Grown
from asr.search.emission import BLANK, Emission
from asr.search.kept import Kept
from asr.search.plan import Plan
from asr.search.prediction import Predict, Prediction, follow

__all__ = ["transducer_beam"]


def transducer_beam(
    encoder: Tensor,
    lens: Tensor,
    beam: Beam,
    prediction: Prediction,
    plan: Plan,
    *,
    predict: Predict,
    join: Callable[[Tensor, Tensor], Tensor],
    kept: Kept | None = None,
) -> tuple[list[list[Emission]], Beam, Prediction]:
    """The tokens that are settled, the next beam, and what each hypothesis lets expect.

    encoder: (B, U, J) projected frames; lens: (B,); prediction: of the hypotheses, its leaves (B, K, ...);
    join: (B, 1, J), (B, K, J) -> logits (B, K, V); kept: of the frames, those that are looked at.
    """
    batch, count = beam.last.shape
    out: list[list[Emission]] = [[] for _ in range(batch)]
    end = beam.frame + lens
    if kept is not None:
        encoder, numbers = kept.of(encoder), beam.frame[:, None] + kept.places
    for u, real, due in beams.frames(beam, lens, kept):
        if kept is not None:
            frame = numbers[:, u] if real is None else torch.where(real, numbers[:, u], beam.frame)
            beam = beams.wait(beam, frame, plan, out)
        logits = join(encoder[:, u, None], prediction.output)
        scores = plan.penalise(logits)
        top = scores[..., 1:].topk(plan.width(scores.shape[-1]), -1).indices + 1
        tokens = torch.cat([top, beam.last[:, None].expand(-1, count, -1)], -1)
        gained = scores.gather(2, tokens)
        bonus, fused = plan.extend(beam, tokens, gained)
        stay = beam.score + scores[..., BLANK, None]
        beam, parent, token = beams.advance(
            beam,
            Grown(stay, tokens, beam.score + gained + bonus, gained, fused, plan.loans(beam.fused, fused)),
            real,
            plan.sure,
        )
        prediction = follow(prediction, parent, token, predict)
        beam = plan.follow(beam, parent, token)
        if due is not None:
            beam = beams.settle(beam, plan.lag, due, out, plan.owed(beam.fused))
    if kept is not None:
        beam = beams.wait(beam, end, plan, out)
    return out, beam, prediction
