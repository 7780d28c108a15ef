"""Streaming state: a tree of frozen dataclasses and tuples whose leaves are tensors.

Axis 0 of every leaf is the stream, so a batch of sessions is one state, and the functions below
are all that a server needs, whatever the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = ["map_tree", "stack", "state_bytes", "unstack", "where", "zeros"]

S = TypeVar("S")


def zeros(like: Tensor, *shape: int) -> Tensor:
    """Of the kind and on the device of a parameter, which may be in shards where this is not (FSDP)."""
    return torch.zeros(shape, dtype=like.dtype, device=like.device)


def map_tree(f: Callable[..., Tensor], state: S, *rest: S) -> S:
    """Apply `f` leaf by leaf to states of one structure."""
    tree: Any = state
    if isinstance(tree, Tensor):
        return f(tree, *rest)  # type: ignore[return-value]
    if isinstance(tree, tuple):
        return tuple(map_tree(f, *leaves) for leaves in zip(tree, *rest, strict=True))  # type: ignore[return-value]
    changes = {x: map_tree(f, *(getattr(s, x) for s in (tree, *rest))) for x in _names(tree.__class__)}
    return tree.__class__(**changes)


@cache
def _names(kind: type[Any]) -> tuple[str, ...]:
    """A step asks hundreds of times."""
    return tuple(x.name for x in fields(kind))


def stack(states: Sequence[S]) -> S:
    """Sessions -> one batched state. The inverse of `unstack`."""
    return map_tree(lambda *leaves: torch.cat(leaves), *states)


def unstack(state: S) -> list[S]:
    """One batched state -> its streams, each a copy: a view would keep the whole batch alive."""
    return [map_tree(lambda leaf, i=i: leaf[i : i + 1].clone(), state) for i in range(_leaf(state).shape[0])]


def where(mask: Tensor, new: S, old: S) -> S:
    """Keep `new` for the streams whose `mask` (B,) is set and `old` for the others."""
    return map_tree(lambda n, o: torch.where(mask.view(-1, *[1] * (n.dim() - 1)), n, o), new, old)


def state_bytes(state: Any) -> int:
    """Bytes that a state holds, over all of its streams."""
    total = 0

    def add(leaf: Tensor) -> Tensor:
        nonlocal total
        total += leaf.numel() * leaf.element_size()
        return leaf

    map_tree(add, state)
    return total


def _leaf(state: Any) -> Tensor:
    while not isinstance(state, Tensor):
        state = state[0] if isinstance(state, tuple) else getattr(state, _names(state.__class__)[0])
    return state
