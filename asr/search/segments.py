"""Where a stream is cut for a search that needs the whole of what it decodes: in pauses, or when there is no more room.

CTC's search runs in front. It tells what has been said so far, and by that where the speaker pauses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from asr.search.beam import EVERY, Beam

__all__ = ["Segments", "append", "boundary", "drop", "pieces", "texts_before"]


@dataclass(frozen=True)
class Segments:
    """The running segment of each stream.

    frames: (B, M, D), from the left; length: (B,) how many; begin: (B,) the number of the first in its stream.
    score: (B,) float64, of the segments before.
    front: CTC's beam, which holds the segment's tokens; () without CTC.
    """

    frames: Tensor
    length: Tensor
    begin: Tensor
    score: Tensor
    front: Beam | tuple[()]


def append(frames: Tensor, length: Tensor, y: Tensor, y_lens: Tensor) -> Tensor:
    """(B, M, D), (B,) and (B, U, D), (B,) -> (B, N, D), the second behind the first; zeros behind both."""
    total = int((length + y_lens).max()) if len(length) else 0
    place = torch.arange(total, device=y.device)[None]
    old = frames.gather(1, _index(place.clamp(max=frames.shape[1] - 1).expand(len(length), -1), frames))
    if not y.shape[1]:
        return old
    new = y.gather(1, _index((place - length[:, None]).clamp(0, y.shape[1] - 1), y))
    joined = torch.where((place < length[:, None])[..., None], old, new)
    return joined.masked_fill((place >= (length + y_lens)[:, None])[..., None], 0.0)


def drop(frames: Tensor, count: Tensor) -> Tensor:
    """(B, N, D) without the first `count` (B,) of each stream."""
    place = torch.arange(frames.shape[1], device=frames.device) + count[:, None]
    moved = frames.gather(1, _index(place.clamp(max=frames.shape[1] - 1), frames))
    return moved.masked_fill((place >= frames.shape[1])[..., None], 0.0)


def _index(place: Tensor, like: Tensor) -> Tensor:
    return place[..., None].expand(-1, -1, like.shape[2])


def pieces(frame: Sequence[int], lens: Sequence[int]) -> Iterator[slice]:
    """The frames of a step, cut where any stream's count of frames, which begins at `frame` (B,), is a multiple of
    `EVERY`: so it does not matter how a stream is cut into steps. lens: (B,).
    """
    ends = {
        u for begin, n in zip(frame, lens, strict=True) for u in range(EVERY - begin % EVERY, n + 1, EVERY)
    }
    last = max(lens, default=0)
    for begin, end in pairwise(sorted({0, last} | ends)):
        yield slice(begin, end)


def boundary(said: Sequence[int] | None, length: int, *, lag: int, room: int) -> int:
    """How many of a segment's `length` frames are over; 0 while it goes on.

    said: the frames at which its tokens were, counted from its first; None if nobody knows. It is over `lag` frames
    after the last of them, and when it fills its `room`: then it is cut in the widest gap of its second half.
    """
    if said and said[-1] < length - lag:
        return said[-1] + 1 + lag // 2
    if length < room:
        return 0
    if said is None:
        return length
    if not said:
        return max(length - lag, length // 2)
    gaps = [(b - a, a) for a, b in pairwise([*said, length]) if a >= length // 2 or a == said[-1]]
    gap, at = max(gaps)
    return at + 1 + (gap - 1) // 2


def texts_before(front: Beam, before: Tensor) -> list[dict[tuple[int, ...], int]]:
    """What each stream's hypotheses said before a frame (B,), best first, and which hypothesis (its place) said it."""
    found: list[dict[tuple[int, ...], int]] = []
    total, order = front.total.sort(dim=1, descending=True, stable=True)
    for b, (scores, places, limit) in enumerate(
        zip(total.tolist(), order.tolist(), before.tolist(), strict=True)
    ):
        texts: dict[tuple[int, ...], int] = {}
        for score, k in zip(scores, places, strict=True):
            if score > -torch.inf:
                told = front.tail[b, k, : int(front.length[b, k])].tolist()
                texts.setdefault(tuple(int(token) for token, frame, _ in told if frame < limit), k)
        found.append(texts)
    return found
