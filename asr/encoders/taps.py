"""What the inner layers of an encoder say, for losses that look there while training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from torch import Tensor

__all__ = ["tapped"]


@contextlib.contextmanager
def tapped(encoder: Any, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """While it lasts, the frames that come out of these layers of an encoder, counted from 1, in the last step.

    They are (B, U, D'), averaged to the encoder's own rate; U may be more than that of its output, where the last
    chunk is filled up. Layers are blocks, or Zipformer's stacks. A block with a gate (I3D) is heard before its gate.
    """
    frames: dict[int, Tensor] = {}

    def keep(number: int, *called: Any) -> None:
        (x, _), rate = called[-1], encoder.layer_rate
        frames[number] = x if rate == 1 else x.unflatten(1, (-1, rate)).mean(dim=2)

    found = encoder.layers() if layers else []
    handles = [found[number - 1].register_forward_hook(partial(keep, number)) for number in layers]
    try:
        yield frames
    finally:
        for handle in handles:
            handle.remove()
