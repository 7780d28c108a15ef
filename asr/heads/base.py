"""What a head is: it turns an encoder's frames into a loss while training, into tokens while decoding."""

from __future__ import annotations

from typing import Protocol, TypeVar

from torch import Tensor

from asr.search.beam import Hypothesis
from asr.search.emission import BLANK, Emission
from asr.search.plan import Plan

__all__ = ["BLANK", "Emission", "Head"]

S = TypeVar("S")


class Head(Protocol[S]):
    """B streams, U frames, D encoder dim, S tokens of the longest transcript.

    A state belongs to the plan with which it was begun, which may hold other streams from one step to the next; no plan
    is greedy search. `searches` are the kinds of search (`SearchConfig.kind`) that a head knows; one that `keeps_back`
    tells tokens in `tail` and `finish` even in greedy search; one that is `spared` need not look at CTC's blanks.
    """

    searches: tuple[str, ...]
    keeps_back: bool
    spared: bool

    def loss(self, y: Tensor, y_lens: Tensor, tokens: Tensor, token_lens: Tensor) -> dict[str, Tensor]:
        """(B, U, D), (B,), (B, S), (B,) -> named losses (B,), summed over an utterance; to be added up."""
        ...

    def init_state(self, batch: int, plan: Plan | None = None) -> S: ...

    def step(
        self, y: Tensor, y_lens: Tensor, state: S, plan: Plan | None = None
    ) -> tuple[list[list[Emission]], S]:
        """(B, U, D), (B,) -> for each stream its new tokens only, which stay as they are, and the next state."""
        ...

    def tail(self, state: S) -> list[list[Emission]]:
        """What each stream's best hypothesis has said since: it may still change."""
        ...

    def finish(self, state: S, plan: Plan | None = None) -> list[list[Hypothesis]]:
        """What the tokens of each stream end with: its hypotheses, best first."""
        ...
