"""What is trained, to the one trainer: all in which runs of speech models and of language models differ."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

from asr.dataset import Batch
from asr.training.checkpoints import RunFolder, write_whole

if TYPE_CHECKING:
    from asr.heads.base import Emission

__all__ = ["Example", "Measured", "Subject"]

Example = Callable[[str, Batch, "list[Emission]"], None]
"""Shown what a head has made of a batch's last utterance."""


@dataclass(frozen=True)
class Measured:
    """Of a dev set. score: what runs are compared by, lower is better; scalars: named numbers for logs and curves;
    references: what was said, by utterance; heard: the same by the way it was decoded, as in "ctc 450 ms"."""

    score: float
    scalars: dict[str, float]
    references: Mapping[str, str] = field(default_factory=dict)
    heard: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def write(self, folder: RunFolder, batch: int) -> None:
        """Keep what was heard, where anything was, for the run's report. Raises DataError: the disk is full."""
        if self.heard:
            tree = {"batch": batch, "references": self.references, "heard": self.heard}
            write_whole(folder.heard, json.dumps(tree, ensure_ascii=False) + "\n")


class Subject(Protocol):
    """A model with its losses. `unit` is that of `amount`, as speeds tell it: "s" of speech, "tokens".

    Losses are those of B utterances or texts; they are weighed, summed and divided by the sum of their sizes.
    """

    unit: str

    @property
    def model(self) -> Any: ...

    def scheduled(self) -> Iterable[Any]:
        """Modules that may follow the number of batches, by `set_batch_count`."""
        ...

    def blocks(self) -> list[nn.Module]:
        """The `Block`s of which the model is a pile, for what is done block by block."""
        ...

    def draw(self, random: Random) -> None:
        """Chooses for the next batch what all processes must choose alike."""
        ...

    def trainable(self, batch: Batch) -> Batch | None:
        """The batch without what no loss can be had of."""
        ...

    def losses(self, batch: Batch, *, epochs: float) -> tuple[dict[str, Tensor], Tensor]:
        """By name (B,), and sizes (B,); `epochs` is how far training is."""
        ...

    def amount(self, batch: Batch) -> float:
        """How much there is in a batch, in units."""
        ...

    def room(self, batch: Batch) -> float:
        """What a batch takes, in units, padding included."""
        ...

    def notes(self) -> dict[str, Any]:
        """What was drawn, for the record of a batch that went wrong."""
        ...

    def measure(self, dev: Iterable[Batch], *, example: Example | None = None) -> Measured: ...

    def calibrate(self, dev: Iterable[Batch]) -> None:
        """Fits what is fitted once the weights are final."""
        ...

    def tell(self, score: float) -> str:
        """A score in words."""
        ...

    def facts(self) -> dict[str, str]:
        """What a bundle's card says of the model."""
        ...
