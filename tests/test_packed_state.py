from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from asr import packed_state
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
        Part(torch.arange(batch) + i, torch.randn(batch, i * batch**2, 3, generator=generator))
        for i in range(3)
    )
    return Whole(torch.rand(batch, 1, generator=generator) > 0.5, parts)


def same(a: Whole, b: Whole) -> None:
    map_tree(lambda x, y: x if torch.equal(x, y) and x.dtype is y.dtype else 1 / 0, a, b)  # type: ignore[arg-type]


@pytest.mark.parametrize("native", [True, False])
def test_joining_undoes_splitting(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not native:
        monkeypatch.setattr(packed_state, "available", lambda: False)
    for batch in (1, 5, 40):
        state = whole(batch)
        streams = split(state)
        assert len(streams) == batch
        same(join(streams), state)
    streams = split(whole(5))
    some = join([streams[3], streams[0]])
    same(some, map_tree(lambda leaf: leaf[[3, 0]], whole(5)))
    # As steps leave it: not in one piece.
    twice = map_tree(lambda leaf: torch.stack([leaf, leaf], -1)[..., 0], whole(4))
    same(join(split(twice)), whole(4))


def test_a_stream_shares_no_memory_with_its_batch() -> None:
    state = whole(4)
    streams = split(state)
    map_tree(lambda leaf: leaf.zero_(), state)
    same(join(streams), whole(4))
    assert all(t.untyped_storage().nbytes() == t.nbytes for stream in streams for t in stream.tensors)
