"""What the inner layers of an encoder say: heard by losses while training, or given something to go on with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from torch import Tensor

__all__ = ["conditioned", "tapped"]


def conditioned(encoder: Any, layers: Sequence[int], condition: Callable[[int, Tensor], Tensor]) -> None:
    """From now on, the frames that come out of these layers, counted from 1, are what `condition` makes of them.

    condition: the layer and its frames (B, layer_rate * U, D') -> as many, each of its own frame alone, so that
    streaming stays what it is.
    """
    found = encoder.layers()
    for number in layers:
        # No closure: copies of a model have hooks of their own.
        found[number - 1].register_forward_hook(partial(_condition, condition, number))


def _condition(condition: Callable[[int, Tensor], Tensor], number: int, *called: Any) -> Any:
    x, *rest = called[-1]
    return condition(number, x), *rest


@contextlib.contextmanager
def tapped(encoder: Any, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """While it lasts, the frames that come out of these layers of an encoder, counted from 1, in the last step.

    They are (B, U, D'), averaged to the encoder's own rate; U may be more than that of its output, where the last
    chunk is filled up. Layers are blocks, or Zipformer's stacks. A block with a gate (I3D) is heard before its gate,
    one that is `conditioned` before that.
    """
    frames: dict[int, Tensor] = {}

    def keep(number: int, *called: Any) -> None:
        (x, _), rate = called[-1], encoder.layer_rate
        frames[number] = x if rate == 1 else x.unflatten(1, (-1, rate)).mean(dim=2)

    found = encoder.layers() if layers else []
    handles = [
        found[number - 1].register_forward_hook(partial(keep, number), prepend=True) for number in layers
    ]
    try:
        yield frames
    finally:
        for handle in handles:
            handle.remove()
