"""What an encoder is, to everything that is not an encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from torch import Tensor

__all__ = ["FULL_CONTEXT", "Chunk", "Encoder"]

S = TypeVar("S")


@dataclass(frozen=True)
class Chunk:
    """How much an output frame may see: its own chunk of `frames`, and `left` frames before the chunk.

    Both are counted in the encoder's output frames. `frames == 0` means the whole utterance.
    """

    frames: int
    left: int = 0

    @property
    def full(self) -> bool:
        return self.frames == 0


FULL_CONTEXT = Chunk(0)


class Encoder(Protocol[S]):
    """B streams, T input frames of 10 ms, U = T / subsampling output frames, D = dim.

    A stream's first step brings `lookahead` input frames and a whole number of chunks; later steps bring whole
    chunks. Fewer (in `x_lens`) mean that the stream ends there. `forward` is `step` from `init_state`. An encoder
    whose first frame needs only the first of its input frames has a `lookahead` below zero: its first step is shorter.
    `layers` are modules that give (B, layer_rate * U, layer_dims[i]) and their next state, for losses in the middle.
    """

    dim: int
    subsampling: int
    lookahead: int
    chunk_sizes: tuple[Chunk, ...]
    layer_rate: int
    layer_dims: tuple[int, ...]

    def layers(self) -> list[Any]: ...

    def init_state(self, batch: int, chunk: Chunk) -> S: ...

    def step(self, x: Tensor, x_lens: Tensor, state: S, chunk: Chunk) -> tuple[Tensor, Tensor, S]:
        """(B, T, F), (B,) -> (B, U, D), (B,), the next state. The given state is not changed."""
        ...

    def forward(self, x: Tensor, x_lens: Tensor, chunk: Chunk = FULL_CONTEXT) -> tuple[Tensor, Tensor]: ...
