"""Attention by chunks with relative positions: the weights of Zipformer (Yao et al. 2023), and values by these weights.

The products' inner sizes are 4 to 32, far from what matrix libraries are made for, and around them torch needs a dozen
passes over matrices of all queries by all keys. The kernels need one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from asr.native.library import address, available, library, plain

__all__ = ["Seen", "attention_values", "attention_weights"]

MASKED = -1000.0  # finite, so that a frame with nothing to see yields a number


@dataclass(frozen=True)
class Seen:
    """Which frames the queries of one step see: those of their chunk of c frames and the L before it.

    Frames are counted from the step's first; L of them, from -L to -1, are in caches. begin, end: (B,) int64, the
    first frame that exists, at least -L, and the one after the last.
    """

    chunk: int
    left: int
    begin: Tensor
    end: Tensor

    def hidden(self, frames: int) -> Tensor:
        """(B, n, L + c): the keys of each chunk that do not exist."""
        place = torch.arange(frames, device=self.begin.device)[:: self.chunk, None] + torch.arange(
            -self.left, self.chunk, device=self.begin.device
        )
        return (place >= self.end[:, None, None]) | (place < self.begin[:, None, None])

    def windows(self, cache: Tensor, x: Tensor) -> Tensor:
        """(B, L, D), (B, U, D) -> what each chunk sees (B, n, L + c, D); zeros before the stream."""
        if self.left:
            stale = torch.arange(-self.left, 0, device=x.device) < self.begin[:, None]
            x = torch.cat([cache.masked_fill(stale[..., None], 0.0), x], 1)
        if x.shape[1] == self.left + self.chunk:
            return x[:, None]  # of one chunk, and ONNX knows no unfold of a length that it does not know
        return x.unfold(1, self.left + self.chunk, self.chunk).transpose(2, 3)


def _scratch(x: Tensor, size: int, position: int, seen: Seen) -> Tensor:
    floats = library().rill_attention_scratch(size, position, seen.chunk, seen.left)
    return x.new_empty(floats * torch.get_num_threads())


class _Weights(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, cache: Tensor, table: Tensor, seen: Seen, heads: int, size: int, position: int
    ) -> tuple[Tensor, Tensor]:
        given = [part.contiguous() for part in (x, cache, table, seen.begin, seen.end)]
        batch, frames, row = x.shape
        shape = batch, frames // seen.chunk, heads, seen.chunk, seen.left + seen.chunk
        weights, first = x.new_empty(shape), x.new_empty(*shape[:2], 1, *shape[3:])
        ctx.sizes = batch, frames, row, heads, size, position, seen.chunk, seen.left, torch.get_num_threads()
        ctx.seen = seen
        results = weights, first, _scratch(x, size, position, seen)
        library().rill_attention_weights(*map(address, (*given, *results)), *ctx.sizes)
        ctx.save_for_backward(*given, weights)
        return weights, first

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, _, table, *_ = saved = ctx.saved_tensors
        _, _, _, _, size, position, *_ = ctx.sizes
        dx, d_table = torch.empty_like(x), table.new_empty(len(x), *table.shape)
        given = (
            *saved,
            *(g.contiguous() for g in gradients),
            dx,
            d_table,
            _scratch(x, size, position, ctx.seen),
        )
        library().rill_attention_weights_gradient(*map(address, given), *ctx.sizes)
        return dx, None, d_table.sum(0), None, None, None, None


def attention_weights(
    x: Tensor, cache: Tensor, table: Tensor, seen: Seen, *, heads: int, size: int, position: int
) -> tuple[Tensor, Tensor]:
    """Softmax of the products of queries and keys, plus what a query thinks of a key's distance.

    x: (B, U, 2 H `size` + H `position`), queries, keys and positions of H heads; cache: (B, L, H `size`), the keys
    before x, which get no gradient; table: (H `position`, L + 2 c), by what positions are multiplied, for the
    distances key - query from -(L + c) to c - 1. -> weights (B, n, H, c, L + c) and, on their own, those of the first
    head (B, n, 1, c, L + c). Of a chunk that sees nothing they are finite. Raises ValueError where shapes do not fit.
    """
    batch, frames, row = x.shape
    wanted = (heads * (2 * size + position), (batch, seen.left, heads * size))
    if frames % seen.chunk or (row, cache.shape) != wanted:
        raise ValueError(f"attention of {tuple(x.shape)}, cache {tuple(cache.shape)}: {wanted} would fit")
    if table.shape != (heads * position, seen.left + 2 * seen.chunk):
        raise ValueError(
            f"a table of {tuple(table.shape)} does not fit {seen.left} + 2 x {seen.chunk} distances"
        )
    if available() and plain(x, cache, table):
        weights: tuple[Tensor, Tensor] = _Weights.apply(x, cache, table, seen, heads, size, position)
        return weights
    query, key, places = x.split([heads * size, heads * size, heads * position], -1)
    query = query.unflatten(1, (-1, seen.chunk)).unflatten(3, (heads, -1)).transpose(2, 3)
    scores = query @ seen.windows(cache, key).unflatten(3, (heads, -1)).permute(0, 1, 3, 4, 2)
    scores = scores + _position_scores(places, table, heads, seen)
    hidden = seen.hidden(frames)[:, :, None, None]
    both = scores.masked_fill(hidden, MASKED).softmax(-1)
    return both, both[:, :, :1]


def _position_scores(x: Tensor, table: Tensor, heads: int, seen: Seen) -> Tensor:
    """(B, U, H P) -> (B, n, H, c, L + c)."""
    batch, frames, _ = x.shape
    x = x.unflatten(2, (heads, -1)).permute(2, 0, 1, 3).flatten(1, 2)
    scores = (x @ table.unflatten(0, (heads, -1))).unflatten(1, (batch, frames // seen.chunk, seen.chunk))
    # Row q holds all distances; the keys that q sees begin c - q later. One reading shifts all rows.
    width = scores.shape[-1]
    shifted = scores.flatten(-2)[..., seen.chunk :].unflatten(-1, (seen.chunk, width - 1))
    return shifted[..., : seen.left + seen.chunk].permute(1, 2, 0, 3, 4)


class _Values(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cache: Tensor, weights: Tensor, seen: Seen) -> Tensor:
        given = [part.contiguous() for part in (x, cache, weights, seen.begin, seen.end)]
        (batch, frames, dim), heads = x.shape, weights.shape[2]
        ctx.sizes = batch, frames, heads, dim // heads, seen.chunk, seen.left, torch.get_num_threads()
        ctx.seen = seen
        y = torch.empty_like(given[0])
        results = y, _scratch(x, dim // heads, 0, seen)
        library().rill_attention_values(*map(address, (*given, *results)), *ctx.sizes)
        ctx.save_for_backward(*given)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, _, weights, *_ = saved = ctx.saved_tensors
        dx, d_weights = torch.empty_like(x), torch.empty_like(weights)
        given = *saved, gradients[0].contiguous(), d_weights, dx, _scratch(x, ctx.sizes[3], 0, ctx.seen)
        library().rill_attention_values_gradient(*map(address, given), *ctx.sizes)
        return dx, None, d_weights, None


def attention_values(x: Tensor, cache: Tensor, weights: Tensor, seen: Seen) -> Tensor:
    """(B, U, H V) values, cache (B, L, H V) those before, which get no gradient; weights (B, n, H, c, L + c)
    -> (B, U, H V). Raises ValueError where the shapes do not fit each other.
    """
    (batch, frames, dim), heads = x.shape, weights.shape[2]
    keys = seen.left + seen.chunk
    if weights.shape != (batch, frames // seen.chunk, heads, seen.chunk, keys) or dim % heads:
        raise ValueError(f"weights of {tuple(weights.shape)} do not fit values of {tuple(x.shape)}")
    if cache.shape != (batch, seen.left, dim):
        raise ValueError(f"a cache of {tuple(cache.shape)} does not fit values of {tuple(x.shape)}")
    # One wide head over a whole utterance is what matrix libraries are made for.
    if available() and plain(x, cache, weights) and (heads > 1 or seen.left):
        y: Tensor = _Values.apply(x, cache, weights, seen)
        return y
    windows = seen.windows(cache, x).unflatten(3, (heads, -1)).transpose(2, 3)
    return (weights @ windows).transpose(2, 3).flatten(3).flatten(1, 2)
