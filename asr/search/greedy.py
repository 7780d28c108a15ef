"""The most probable token at each step: batched over streams, and the same for any split of the frames."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from asr import state as trees
from asr.search.emission import BLANK, Emission
from asr.search.kept import Kept
from asr.search.prediction import Predict, Prediction

__all__ = ["ctc_greedy", "transducer_greedy"]


def ctc_greedy(
    log_probabilities: Tensor, lens: Tensor, previous: Tensor, frame: Tensor
) -> tuple[list[list[Emission]], Tensor]:
    """Best token of each frame, runs of one token merged, blanks dropped.

    log_probabilities: (B, U, V); lens: (B,); previous: (B,) the best token of the frame before; frame: (B,) the
    number of the first frame. Returns the emissions, and the best token of each stream's last frame.
    """
    score, best = log_probabilities.max(-1)
    before = torch.cat([previous[:, None], best], 1)
    real = torch.arange(best.shape[1], device=best.device) < lens[:, None]
    emits = real & (best != BLANK) & (best != before[:, :-1])
    last = before.gather(1, lens[:, None])[:, 0]
    return _emissions(emits, best, score, frame), last


def _emissions(emits: Tensor, token: Tensor, score: Tensor, frame: Tensor) -> list[list[Emission]]:
    out: list[list[Emission]] = [[] for _ in range(len(emits))]
    stream, index = emits.nonzero(as_tuple=True)
    columns = (stream, token[stream, index], frame[stream] + index, score[stream, index])
    for b, t, f, s in zip(*(column.tolist() for column in columns), strict=True):
        out[b].append(Emission(t, f, s))
    return out


LOOKS = 64  # streams times frames that one round looks at, about


def transducer_greedy(
    encoder: Tensor,
    lens: Tensor,
    prediction: Prediction,
    frame: Tensor,
    *,
    predict: Predict,
    join: Callable[[Tensor, Tensor], Tensor],
    max_symbols: int,
    durations: Callable[[Tensor, Tensor], Tensor] | None = None,
    skip: Tensor | None = None,
    kept: Kept | None = None,
    alike: bool = False,
) -> tuple[list[list[Emission]], Prediction, Tensor]:
    """Emit the best token and stay on the frame, or move on at blank or after `max_symbols` tokens.

    Streams go on independently (Bataev et al. 2024, label looping): each looks at some frames at once given what it has
    said and jumps to the first that is not blank. The more streams there are, the fewer frames, for those behind that
    one are looked at in vain. Where `join` treats all streams alike, those that are done are left out. With
    `durations`, tokens and blanks say themselves how far to go on (Xu et al. 2023), beyond the end of a step, too.

    encoder: (B, U, J) projected frames; prediction: of the tokens so far; frame: (B,) the number of the first frame;
    join: (B, W, J), (B, 1, J) -> logits (B, W, V); durations: -> frames (B, W) int64, of which `skip` (B,) are left
    from the step before; kept: of the frames, those that are looked at. Returns the
    emissions, the prediction that follows them, and the next step's `skip`.
    """
    wanted: Tensor | None = None
    if kept is not None and durations is not None:  # they count the frames that are not looked at, too
        wanted, kept = kept.mask(encoder.shape[1]), None
    if kept is not None:
        encoder, lens = kept.of(encoder), kept.lens
    batch, frames, _ = encoder.shape
    out: list[list[Emission]] = [[] for _ in range(batch)]
    at, symbols = torch.zeros_like(lens) if skip is None else skip.clone(), torch.zeros_like(lens)
    rows = torch.arange(batch, device=encoder.device)
    while len(going := (at < lens).nonzero()[:, 0]):
        rows = going if alike else rows
        here, left = at[rows], lens[rows]
        window = min(max(LOOKS // len(rows), 2), 8, int((left - here).max()))
        index = here[:, None] + torch.arange(window, device=encoder.device)
        ahead = rows[:, None], index.clamp(max=frames - 1)
        seen, expected = encoder[ahead], prediction.output[rows, None]
        logits = join(seen, expected)
        best = logits.argmax(-1)
        if wanted is not None:
            best = torch.where(wanted[ahead], best, BLANK)
        spoken = (best != BLANK) & (index < left[:, None])
        if durations is None:
            first = spoken.to(torch.uint8).argmax(1)
            emits = spoken.gather(1, first[:, None])[:, 0]
            passed, stays = torch.where(emits, first, window), torch.zeros_like(first)
        else:
            goes = durations(seen, expected)
            goes = goes if wanted is None else torch.where(wanted[ahead], goes, 1)
            passed = _passed(goes, best != BLANK, left - here)
            first = passed.clamp(max=window - 1)
            emits = (passed == first) & spoken.gather(1, first[:, None])[:, 0]
            stays = goes.gather(1, first[:, None])[:, 0]
        token = best.gather(1, first[:, None])[:, 0]
        says = emits.nonzero()[:, 0]
        if len(says):
            chosen = logits[says, first[says]].log_softmax(-1).gather(1, token[says, None])[:, 0]
            place = here[says] + first[says]
            where = frame[rows][says] + (place if kept is None else kept.places[rows[says], place])
            for b, t, f, s in zip(
                rows[says].tolist(), token[says].tolist(), where.tolist(), chosen.tolist(), strict=True
            ):
                out[b].append(Emission(t, f, s))
            every, tokens = torch.zeros_like(lens, dtype=torch.bool), torch.zeros_like(lens)
            every[rows], tokens[rows] = emits, token
            prediction = trees.where(every, predict(tokens, prediction.state), prediction)
        count = torch.where(emits, torch.where(first > 0, 1, symbols[rows] + 1), 0)
        stays = torch.where(count >= max_symbols, stays.clamp(min=1), stays)
        at[rows] = here + passed + torch.where(emits, stays, 0)
        symbols[rows] = torch.where(stays > 0, 0, count)
    return out, prediction, (at - lens).clamp(min=0)


def _passed(goes: Tensor, spoken: Tensor, left: Tensor) -> Tensor:
    """How many frames (B,) go by until one reached is `spoken`, or beyond the W in sight and the `left` (B,) ones.

    goes, spoken: (B, W).
    """
    passed = torch.zeros_like(left)
    width = goes.shape[1]
    for _ in range(width):
        here = passed.clamp(max=width - 1)[:, None]
        moves = (passed < left.clamp(max=width)) & ~spoken.gather(1, here)[:, 0]
        passed = torch.where(moves, passed + goes.gather(1, here)[:, 0].clamp(min=1), passed)
    return passed
