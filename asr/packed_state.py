"""A stream's state as one tensor a dtype: a batch of sessions is put together and taken apart with one copy each."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Generic, TypeVar

import torch
from torch import Size, Tensor

from asr.native import available
from asr.native.library import address, library
from asr.native.linear import pointers
from asr.state import map_tree

__all__ = ["PackedState", "join", "split"]

S = TypeVar("S")

_NOTHING = torch.empty(0)


@dataclass(frozen=True)
class _Row:
    """How leaves of one dtype lie in a stream's tensor: which of the state's they are, their shapes without the stream,
    and where each ends.
    """

    dtype: torch.dtype
    leaves: tuple[int, ...]
    shapes: tuple[Size, ...]
    ends: tuple[int, ...]

    def bytes_ends(self) -> ctypes.Array[ctypes.c_int64]:
        return (ctypes.c_int64 * len(self.ends))(*(end * self.dtype.itemsize for end in self.ends))

    def spans(self) -> zip[tuple[int, int]]:
        return zip((0, *self.ends), self.ends, strict=False)


@dataclass(frozen=True)
class PackedState(Generic[S]):
    """One stream's state. like: a state of the same structure, without memory; tensors: (1, N) each, of each row."""

    like: S
    rows: tuple[_Row, ...]
    tensors: tuple[Tensor, ...]


def split(state: S) -> list[PackedState[S]]:
    """A batched state -> its streams, each a copy that shares no memory with the batch."""
    leaves: list[Tensor] = []

    def note(leaf: Tensor) -> Tensor:
        leaves.append(leaf)
        return _NOTHING

    like = map_tree(note, state)
    rows = []
    for dtype in dict.fromkeys(leaf.dtype for leaf in leaves):
        mine = tuple(i for i, leaf in enumerate(leaves) if leaf.dtype is dtype)
        shapes = tuple(leaves[i].shape[1:] for i in mine)
        rows.append(_Row(dtype, mine, shapes, tuple(accumulate(shape.numel() for shape in shapes))))
    apart = [_split(row, [leaves[i] for i in row.leaves]) for row in rows]
    return [PackedState(like, tuple(rows), tensors) for tensors in zip(*apart, strict=True)]


def join(states: Sequence[PackedState[S]]) -> S:
    """Streams of one structure -> one batched state: the inverse of `split`."""
    first = states[0]
    leaves: dict[int, Tensor] = {}
    for k, row in enumerate(first.rows):
        leaves |= zip(row.leaves, _join(row, [state.tensors[k] for state in states]), strict=True)
    every = (leaves[i] for i in range(len(leaves)))
    return map_tree(lambda _: next(every), first.like)


def _split(row: _Row, leaves: Sequence[Tensor]) -> list[Tensor]:
    batch = len(leaves[0])
    if not _native(leaves[0]):
        together = torch.cat([leaf.reshape(batch, -1) for leaf in leaves], 1)
        return [stream.clone() for stream in together.split(1)]
    leaves = [leaf.contiguous() for leaf in leaves]
    streams = [leaves[0].new_empty(1, row.ends[-1]) for _ in range(batch)]
    library().rill_split_rows(
        pointers(leaves), pointers(streams), row.bytes_ends(), len(leaves), batch, torch.get_num_threads()
    )
    return streams


def _join(row: _Row, streams: Sequence[Tensor]) -> list[Tensor]:
    batch = len(streams)
    if not _native(streams[0]):
        together = torch.cat(list(streams))
        parts = [together[:, begin:end] for begin, end in row.spans()]
    else:
        blocks = streams[0].new_empty(batch * row.ends[-1])
        library().rill_join_rows(
            pointers(streams),
            address(blocks),
            row.bytes_ends(),
            len(row.ends),
            batch,
            torch.get_num_threads(),
        )
        parts = [blocks[batch * begin : batch * end] for begin, end in row.spans()]
    return [part.view(batch, *shape) for part, shape in zip(parts, row.shapes, strict=True)]


def _native(x: Tensor) -> bool:
    return available() and x.device.type == "cpu"
