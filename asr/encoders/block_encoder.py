"""What encoders of one frame rate share: subsampling, then a stack of blocks that see the same context."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from asr.encoders.attention import Context
from asr.encoders.base import FULL_CONTEXT, Chunk
from asr.encoders.dropout import Dropout
from asr.encoders.positions import Places, Positions, encodings
from asr.encoders.subsampling import Subsampling, SubsamplingState

__all__ = ["Block", "BlockEncoder", "BlockEncoderState"]


class Block(Protocol):
    """A layer of an encoder, with a state class of its own."""

    def init_state(self, batch: int, left: int) -> Any: ...

    def __call__(self, x: Tensor, context: Context, state: Any) -> tuple[Tensor, Any]:
        """(B, U, D) -> (B, U, D), the next state."""
        ...


@dataclass(frozen=True)
class BlockEncoderState:
    """front: the subsampling's, which knows the stream's position; blocks: one each."""

    front: SubsamplingState
    blocks: tuple[Any, ...]


class BlockEncoder(nn.Module):
    """(B, T, F) at 100 Hz -> (B, U, D). See `Encoder` for the contract.

    An encoder is made of `front` and `blocks`, and departs from the rest by overriding `run`. `chunks` are the
    latencies that it is trained for, beside full context; an offline encoder gives none. `norm_out` follows the last
    block; `scale_input` multiplies by sqrt(D) before the first, as ESPnet does and NeMo may.
    """

    layer_rate = 1  # frames of a block for each that leaves

    def __init__(
        self,
        front: Subsampling,
        blocks: Iterable[nn.Module],
        *,
        dim: int,
        chunks: tuple[Chunk, ...],
        positions: Positions = "relative",
        dropout: float = 0.0,
        scale_input: bool = False,
        norm_out: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.dim, self.subsampling, self.lookahead = dim, front.factor, front.lookahead
        self.chunk_sizes = (*chunks, FULL_CONTEXT)
        self.scale = dim**0.5 if scale_input else 1.0
        self.front = front
        self.positions = encodings(positions, dim)
        self.places = Places(dim) if positions == "absolute" else None
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(blocks)
        self.layer_dims = (dim,) * len(self.blocks)
        self.norm_out = nn.Identity() if norm_out is None else norm_out

    def layers(self) -> list[Any]:
        """The blocks, each a `Block`."""
        return list(self.blocks)

    def init_state(self, batch: int, chunk: Chunk = FULL_CONTEXT) -> BlockEncoderState:
        blocks = tuple(block.init_state(batch, chunk.left) for block in self.layers())
        return BlockEncoderState(self.front.init_state(batch), blocks)

    def forward(self, x: Tensor, x_lens: Tensor, chunk: Chunk = FULL_CONTEXT) -> tuple[Tensor, Tensor]:
        """Whole utterances: `step` from the beginning. (B, T, F), (B,) -> (B, U, D), (B,)."""
        y, y_lens, _ = self.step(self.front.whole(x, chunk), x_lens, self.init_state(len(x), chunk), chunk)
        return y[:, : max(1, self.front.frames(x.shape[1]))], y_lens

    def step(
        self, x: Tensor, x_lens: Tensor, state: BlockEncoderState, chunk: Chunk = FULL_CONTEXT
    ) -> tuple[Tensor, Tensor, BlockEncoderState]:
        """The next chunks of B streams. Raises ValueError if x is not whole chunks (and `lookahead` at the start)."""
        y, lens, front = self.front(x, x_lens, state.front, chunk)
        y = y * self.scale
        if self.places is not None:
            y = y + self.places(0, 0, state.front.position, y)
        y = self.dropout(y)
        context = Context.of(y, lens, state.front.position, chunk, self.positions)
        y, blocks = self.run(y, context, state.blocks)
        return self.norm_out(y), lens, BlockEncoderState(front, blocks)

    def run(self, x: Tensor, context: Context, states: tuple[Any, ...]) -> tuple[Tensor, tuple[Any, ...]]:
        """All blocks, one after another: (B, U, D) -> (B, U, D), their next states."""
        new = []
        for block, old in zip(self.layers(), states, strict=True):
            x, state = block(x, context, old)
            new.append(state)
        return x, tuple(new)
