"""What a head is: it turns an encoder's frames into a loss while training, into tokens while decoding."""

from __future__ import annotations

from typing import NamedTuple, Protocol, TypeVar

from torch import Tensor

__all__ = ["BLANK", "Emission", "Head"]

BLANK = 0  # the token that stands for "nothing yet", in every head

S = TypeVar("S")


class Emission(NamedTuple):
    """A token, the output frame of its stream on which it was emitted, and its natural log-probability there."""

    token: int
    frame: int
    log_probability: float


class Head(Protocol[S]):
    """B streams, U frames, D encoder dim, S tokens of the longest transcript."""

    def loss(self, y: Tensor, y_lens: Tensor, tokens: Tensor, token_lens: Tensor) -> dict[str, Tensor]:
        """(B, U, D), (B,), (B, S), (B,) -> named losses (B,), summed over an utterance; to be added up."""
        ...

    def init_state(self, batch: int) -> S: ...

    def step(self, y: Tensor, y_lens: Tensor, state: S) -> tuple[list[list[Emission]], S]:
        """(B, U, D), (B,) -> for each stream its new tokens only, and the next state."""
        ...
