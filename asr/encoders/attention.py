"""Multi-head attention over chunks, with what `Positions` says of where keys stand.

B streams, U frames of this step, D = dim, H heads of K, L frames of left context. A frame sees its own chunk and
the L frames before that chunk. Queries are taken in blocks of a few chunks, each against the keys that it may see, so
that memory grows with U and not with its square; full context is one chunk, whose queries are taken in blocks, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr.encoders.base import Chunk
from asr.encoders.positions import LegacyPositions, Places, Positions, RelativePositions
from asr.state import zeros

__all__ = ["Attention", "AttentionState", "Context"]

QUERIES = (
    128  # chunks are put together up to this many frames, or up to the left context's if `SCORES` allows
)
SCORES = 1 << 20  # queries times keys of one block, at most


@dataclass(frozen=True)
class Block:
    """Some queries, and the keys that they see, among the L cached ones and the U of this step.

    distances: where their key - query stand in `Context.positions`; mask: (B or 1, 1, q or 1, k) to add to the scores.
    """

    queries: slice
    keys: slice
    distances: slice
    mask: Tensor | None


@dataclass(frozen=True)
class Context:
    """What the frames of one step may see: made once a step, and shared by all layers at one frame rate.

    chunk, left: frames; the chunk of full context is the whole step. padding: (B, U, 1), frames behind a stream's end,
    of which `padded` says whether there are any.
    stale: (B, L, 1), cached frames from before the stream, or None where there are none. positions: (L + 2 G, D),
    encodings of key - query from -(L + G) to G - 1, for groups of G frames; or what other `Positions` make of them.
    """

    chunk: int
    left: int
    padding: Tensor
    padded: bool
    stale: Tensor | None
    blocks: tuple[Block, ...]
    positions: Tensor | None = None

    @classmethod
    def of(
        cls,
        x: Tensor,
        lens: Tensor,
        position: Tensor,
        chunk: Chunk,
        positions: RelativePositions | LegacyPositions | Places | None = None,
    ) -> Context:
        """x: (B, U, D), whole chunks; lens: (B,), the frames that are real; position: (B,), frames before this step."""
        frames = x.shape[1]
        size, left = (frames, 0) if chunk.full else (chunk.frames, chunk.left)
        key = torch.arange(-left, frames, device=x.device)
        hidden = (key >= lens[:, None]) | (key < -position[:, None])
        stale = hidden[:, :left, None] if bool((position < left).any()) else None
        several = max(QUERIES, min(left, SCORES // (2 * left + 1)))
        group = min(frames, size * max(1, several // size))
        return cls(
            chunk=size,
            left=left,
            padding=hidden[:, left:, None],
            padded=bool((lens < frames).any()),
            stale=stale,
            blocks=_blocks(hidden if bool(hidden.any()) else None, frames, size, left, group, x),
            positions=None if positions is None else positions(left, group, position, x),
        )

    def remember(self, cache: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L, D), (B, U, D) -> both together, (B, L + U, D), and the next cache."""
        if self.left == 0:
            return x, cache
        if self.stale is not None:
            cache = cache.masked_fill(self.stale, 0.0)
        x = torch.cat([cache.to(x.dtype), x], 1)
        last = x[:, x.shape[1] - self.left :]
        return x, last.clone() if x.shape[1] > 2 * self.left else last  # a view would keep all of a long x


def _blocks(
    hidden: Tensor | None, frames: int, size: int, left: int, group: int, like: Tensor
) -> tuple[Block, ...]:
    """Groups of chunks of `size` frames, each in as many blocks as keep to `SCORES`."""
    masked = torch.finfo(like.dtype).min / 2  # finite, so that a frame with nothing to see yields a number
    outside = None
    if group > size:  # the chunks of a group see different keys
        first = torch.arange(group, device=like.device).div(size, rounding_mode="floor")[:, None] * size
        key = torch.arange(-left, group, device=like.device)
        outside = (key < first - left) | (key >= first + size)
    blocks = []
    for begin in range(0, frames, group):
        end = min(begin + group, frames)
        keys = slice(begin, end + left)
        unseen = None if hidden is None else hidden[:, None, keys]
        if outside is not None:
            inner = outside[: end - begin, : left + end - begin]
            unseen = inner[None] if unseen is None else unseen | inner
        mask = None
        if unseen is not None:
            mask = like.new_zeros(unseen.shape).masked_fill(unseen, masked)[:, None]
        several = max(1, SCORES // (left + end - begin))
        for at in range(begin, end, several):
            to = min(at + several, end)
            rows = mask if mask is None or mask.shape[2] == 1 else mask[:, :, at - begin : to - begin]
            # key - query from begin - left - to, one more than there is, to end - 1 - at
            distances = slice(group + begin - to, group + left + end - at)
            blocks.append(Block(slice(at, to), keys, distances, rows))
    return tuple(blocks)


@dataclass(frozen=True)
class AttentionState:
    """keys, values: (B, L, H K) of the frames that the next chunk still sees."""

    keys: Tensor
    values: Tensor


class Attention(nn.Module):
    """Multi-head attention. `positions` says what a query knows of where a key stands: see `Positions`.

    Heads are `head_dim` wide, together H K; 0 stands for D / H.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        head_dim: int = 0,
        positions: Positions = "relative",
        dropout: float = 0.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if dim % heads and not head_dim:
            raise ValueError(f"{heads} heads do not divide {dim} dimensions")
        head_dim = head_dim or dim // heads
        self.dim, self.heads, self.dropout = dim, heads, dropout
        self.positions: Positions = positions
        self.width = width = heads * head_dim
        self.project_in = nn.Linear(dim, 3 * width, bias=bias)  # query, key, value
        self.project_out = nn.Linear(width, dim, bias=bias)
        if positions in ("relative", "legacy", "places"):
            self.project_positions = nn.Linear(dim, width, bias=False)
            self.content_bias = nn.Parameter(torch.empty(heads, 1, head_dim))
            self.position_bias = nn.Parameter(torch.empty(heads, 1, head_dim))
            nn.init.xavier_uniform_(self.content_bias[:, 0])
            nn.init.xavier_uniform_(self.position_bias[:, 0])

    def init_state(self, batch: int, left: int) -> AttentionState:
        empty = zeros(self.project_out.weight, batch, left, self.width)
        return AttentionState(empty, empty)

    def forward(self, x: Tensor, context: Context, state: AttentionState) -> tuple[Tensor, AttentionState]:
        """(B, U, D) -> (B, U, D), the next state."""
        query, key, value = self.project_in(x).chunk(3, -1)
        key, keys = context.remember(state.keys, key)
        value, values = context.remember(state.values, value)
        query, key, value = (self._split(part) for part in (query, key, value))
        distances = None
        if self.positions == "places":  # (q + u) k + (q + v) p as one product, over sqrt(K) and not sqrt(2 K)
            query = 2**0.5 * torch.cat([query + self.content_bias, query + self.position_bias], -1)
            key = torch.cat([key, self._split(self.project_positions(context.positions))], -1)
        elif self.positions in ("relative", "legacy"):
            assert context.positions is not None  # its encoder has them, too
            distances = self._distances(query + self.position_bias, context.positions)
            query = query + self.content_bias
        parts = [self._attend(query, key, value, distances, context, block) for block in context.blocks]
        y = parts[0] if len(parts) == 1 else torch.cat(parts, 2)
        return self.project_out(y.transpose(1, 2).flatten(2)), AttentionState(keys, values)

    def _split(self, x: Tensor) -> Tensor:
        """(..., n, H K) -> (..., H, n, K)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(-2, -3)

    def _distances(self, query: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, U, K), (n, D) -> two factors of what each query thinks of each distance: see `_product`.

        Between queries and distances stand the weights, which go with whichever takes less time: with the queries
        where these are few, as in a step of one chunk.
        """
        query = query.transpose(0, 1) * query.shape[3] ** -0.5
        weight = self.project_positions.weight.unflatten(0, (self.heads, -1))
        (_, batch, frames, _), (n, dim) = query.shape, positions.shape
        rows = batch * frames
        if rows * (self.width * dim + self.heads * dim * n) < n * self.width * (dim + rows):
            return _product(query, weight), positions.t()
        return query, weight @ positions.t()

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        distances: tuple[Tensor, Tensor] | None,
        context: Context,
        block: Block,
    ) -> Tensor:
        """(B, H, U, K), (B, H, L + U, K) twice, the pair of `_distances` -> (B, H, q, K)."""
        mask = block.mask
        if distances is not None:
            if self.positions == "legacy":
                scores = _wrapped(*distances, context, block)
            else:
                scores = _shifted(
                    _product(distances[0][:, :, block.queries], distances[1][..., block.distances])
                )
            mask = scores if mask is None else scores + mask
        query, key, value = query[:, :, block.queries], key[:, :, block.keys], value[:, :, block.keys]
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)


def _product(query: Tensor, factor: Tensor) -> Tensor:
    """(H, B, q, J), (H, J, n) or (J, n) for all heads -> (H, B, q, n)."""
    return (query.flatten(1, 2) @ factor).unflatten(1, query.shape[1:3])


def _shifted(scores: Tensor) -> Tensor:
    """(H, B, q, k + q), of all distances -> (B, H, q, k), of the keys that each query sees."""
    frames, width = scores.shape[2:]
    # A row holds all distances; the keys that it sees begin one later in the row above. One reading shifts all.
    shifted = scores.flatten(2)[..., frames:].unflatten(2, (frames, width - 1))
    return shifted[..., : width - frames].transpose(0, 1)


def _wrapped(query: Tensor, factor: Tensor, context: Context, block: Block) -> Tensor:
    """What ESPnet's first shift makes of the pair of `_distances` for whole utterances -> (B, H, q, k).

    Of n frames, query i sees key j with encoding n - 1 - i + j if j <= i, and with none if j = i + 1. For those after
    that, the row of the next query begins where its own ends: they get what query i + 1 makes of encoding j - i - 2.
    """
    frames = context.padding.shape[1]
    rows = slice(block.queries.start, min(block.queries.stop + 1, frames))
    scores = _product(query[:, :, rows], factor)
    i = torch.arange(block.queries.start, block.queries.stop, device=query.device)[:, None]
    ahead = torch.arange(frames, device=query.device) - i
    lens = (~context.padding).sum(1)[..., None]
    column = torch.where(ahead > 1, ahead - 2, lens - 1 + ahead).clamp(0, frames - 1)
    row = (i - rows.start + (ahead > 1)).clamp(max=scores.shape[2] - 1)
    at = row * frames + column  # (B, q, k)
    found = scores.flatten(2).gather(2, at.flatten(1).expand(len(scores), -1, -1)).unflatten(2, at.shape[1:])
    return found.masked_fill(ahead == 1, 0.0).transpose(0, 1)
