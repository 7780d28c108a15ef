"""Modified beam search for transducers: at most one token a frame (as in Kang et al. 2023), equal texts are summed.

With durations (Xu et al. 2023), the paths of a text stand on different frames: those to which it has gone on. A text's
score has a part for each of them, and what has come to a frame goes on from there. What has gone beyond the last frame
counts, too, as greedy search has it. A plain transducer goes on by one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

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
    moves: Callable[[Tensor, Tensor], Tensor] | None = None,
    kept: Kept | None = None,
) -> tuple[list[list[Emission]], Beam, Prediction]:
    """The tokens that are settled, the next beam, and what each hypothesis lets expect.

    encoder: (B, U, J) projected frames; lens: (B,); prediction: of the hypotheses, its leaves (B, K, ...);
    join: (B, 1, J), (B, K, J) -> logits (B, K, V); moves: -> log-probabilities (B, K, P) float64 of going on by 1 to P
    frames, the parts of the beam's scores; kept: of the frames, those that are looked at. On others, what is due waits.
    """
    batch, count = beam.last.shape
    out: list[list[Emission]] = [[] for _ in range(batch)]
    end, go = beam.frame + lens, torch.zeros_like(beam.score[..., :1])
    if kept is not None:
        encoder, numbers = kept.of(encoder), beam.frame[:, None] + kept.places
    for u, real, due in beams.frames(beam, lens, kept):
        if kept is not None:
            frame = numbers[:, u] if real is None else torch.where(real, numbers[:, u], beam.frame)
            beam = beams.wait(_pass(beam, frame), frame, plan, out)
        scores = plan.penalise(join(encoder[:, u, None], prediction.output))
        if moves is not None:
            go = moves(encoder[:, u, None], prediction.output)
        here, any_move = beam.score[..., 0], go.logsumexp(-1)
        top = scores[..., 1:].topk(plan.width(scores.shape[-1]), -1).indices + 1
        tokens = torch.cat([top, beam.last[:, None].expand(-1, count, -1)], -1)
        gained = scores.gather(2, tokens)
        bonus, fused = plan.extend(beam, tokens, gained - scores.amax(-1, keepdim=True))
        waiting = torch.nn.functional.pad(beam.score[..., 1:], (0, 1), value=-torch.inf)
        grown = Grown(
            torch.logaddexp(waiting, (here + scores[..., BLANK])[..., None] + go),
            tokens,
            (here + any_move)[..., None] + gained + bonus,
            gained,
            go - any_move[..., None],
            fused,
            scores.argmax(-1).masked_fill(here == -torch.inf, BLANK) if plan.follows else None,
        )
        beam, parent, token = beams.advance(beam, grown, real, plan.sure)
        prediction = follow(prediction, parent, token, predict)
        beam = plan.follow(beam, parent, token)
        if due is not None:
            beam = beams.settle(beam, plan.lag, due, out)
    if kept is not None:
        beam = beams.wait(_pass(beam, end), end, plan, out)
    return out, beam, prediction


def _pass(beam: Beam, frame: Tensor) -> Beam:
    """The parts of the scores after the frames up to `frame` (B,) have gone by without a look."""
    place = torch.arange(beam.score.shape[-1], device=frame.device)
    at = (place + (frame - beam.frame)[:, None])[:, None].expand_as(beam.score)
    later = beam.score.gather(2, at.clamp(max=len(place) - 1)).masked_fill(at >= len(place), -torch.inf)
    due = beam.score.masked_fill(place > at[..., :1], -torch.inf).logsumexp(-1)
    return replace(beam, score=torch.cat([due[..., None], later[..., 1:]], -1))
