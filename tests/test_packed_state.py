from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from asr.packed_state import join, split
from asr.state import map_tree


@dataclass(frozen=True)
class Part:
    number: Tensor
    cache: Tensor


@dataclass(frozen=True)
class Whole:
    seen: Tensor
    parts: tuple[Part, ...]


def whole(batch: int) -> Whole:
    generator = torch.Generator().manual_seed(batch)
    parts = tuple(
        Part(torch.arange(batch) + i, torch.randn(batch, i, 3, generator=generator)) for i in range(3)
    )
    return Whole(torch.rand(batch, 1, generator=generator) > 0.5, parts)


def same(a: Whole, b: Whole) -> None:
    map_tree(lambda x, y: x if torch.equal(x, y) and x.dtype is y.dtype else 1 / 0, a, b)  # type: ignore[arg-type]


def test_joining_undoes_splitting() -> None:
    for batch in (1, 5):
        state = whole(batch)
        streams = split(state)
        assert len(streams) == batch
        same(join(streams), state)
    some = join([streams[3], streams[0]])
    same(some, map_tree(lambda leaf: leaf[[3, 0]], whole(5)))


def test_a_stream_shares_no_memory_with_its_batch() -> None:
    state = whole(4)
    streams = split(state)
    map_tree(lambda leaf: leaf.zero_(), state)
    same(join(streams), whole(4))
    assert all(t.untyped_storage().nbytes() == t.nbytes for stream in streams for t in stream.tensors)
