"""What a predictor is: the part of a transducer that knows the tokens so far, and no audio."""

from __future__ import annotations

from typing import Protocol, TypeVar

from torch import Tensor

__all__ = ["Predictor"]

S = TypeVar("S")


class Predictor(Protocol[S]):
    """N streams or hypotheses, S tokens, D = dim.

    Before any token stands the blank: what `step` is given first. `forward` is `step` from `init_state`, all at once.
    """

    dim: int

    def init_state(self, count: int) -> S: ...

    def step(self, token: Tensor, state: S) -> tuple[Tensor, S]:
        """The tokens (N,) that have come -> what follows them, (N, D), and the next state."""
        ...

    def forward(self, tokens: Tensor) -> Tensor:
        """Whole transcripts (N, S) -> what follows the blank and each of the tokens, (N, S + 1, D)."""
        ...
