"""A stream's state as one tensor a dtype: a batch of sessions is put together and taken apart in few operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Size, Tensor

from asr.state import map_tree

__all__ = ["PackedState", "join", "split"]

S = TypeVar("S")


@dataclass(frozen=True)
class _Place:
    """Where a leaf lies: in which of the tensors, from which column on, and its shape without the stream."""

    tensor: int
    begin: int
    shape: Size


@dataclass(frozen=True)
class PackedState(Generic[S]):
    """One stream's state. like: a state of the same structure, without memory; tensors: (1, N) each."""

    like: S
    places: tuple[_Place, ...]
    tensors: tuple[Tensor, ...]


def split(state: S) -> list[PackedState[S]]:
    """A batched state -> its streams, each a copy that shares no memory with the batch."""
    leaves: list[Tensor] = []

    def note(leaf: Tensor) -> Tensor:
        leaves.append(leaf)
        return leaf.new_empty(0)

    like = map_tree(note, state)
    kinds = list(dict.fromkeys(leaf.dtype for leaf in leaves))
    parts: list[list[Tensor]] = [[] for _ in kinds]
    widths, places = [0] * len(kinds), []
    for leaf in leaves:
        kind = kinds.index(leaf.dtype)
        part = leaf.flatten(1) if leaf.dim() > 1 else leaf[:, None]
        places.append(_Place(kind, widths[kind], leaf.shape[1:]))
        parts[kind].append(part)
        widths[kind] += part.shape[1]
    rows = [torch.cat(part, 1).split(1) for part in parts]
    return [
        PackedState(like, tuple(places), tuple(row.clone() for row in stream))
        for stream in zip(*rows, strict=True)
    ]


def join(states: Sequence[PackedState[S]]) -> S:
    """Streams of one structure -> one batched state: the inverse of `split`."""
    first = states[0]
    batch = [torch.cat(tensors) for tensors in zip(*(state.tensors for state in states), strict=True)]
    leaves = iter(first.places)

    def leaf(_: Tensor) -> Tensor:
        place: _Place = next(leaves)
        columns = batch[place.tensor][:, place.begin : place.begin + place.shape.numel()]
        return columns.view(len(states), *place.shape)

    return map_tree(leaf, first.like)
