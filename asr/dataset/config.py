"""What to train and measure on, and how to batch it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["DataConfig"]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Manifests (Lhotse cuts in JSON lines, gzipped or not) and batching; times are in seconds.

    Raises:
        ValueError: values that contradict one another.
    """

    train: tuple[Path, ...]
    dev: tuple[Path, ...] = ()
    test: tuple[Path, ...] = ()
    weights: tuple[float, ...] = ()
    """How often each of `train` is seen per epoch; 0.3 takes another 30 % of it each epoch. Empty: each
    once."""
    max_duration: float = 200.0
    """Of a batch, padding included."""
    jitter: float = 0.05
    """Batches hold utterances of like length: each epoch sorts by duration times a random factor in 1 +-
    `jitter`. More mixes utterances better and pads more: about 4 % of a batch is padding at 0.05, 9 % at
    0.1."""
    speeds: tuple[float, ...] = (0.9, 1.0, 1.1)
    """Each utterance is drawn one of these at random each epoch (Ko et al. 2015); (1.0,) turns it off."""
    plain_epochs: int = 0
    """So many epochs come first without a change of speed and without SpecAugment. A small corpus's model finds
    out much sooner which sound is which letter; augmentation then keeps it from learning the corpus by heart."""
    min_seconds: float = 0.3
    max_seconds: float = 30.0
    """Utterances outside are not trained on; dev and test take all."""
    case: Literal["upper", "lower", "keep"] = "keep"
    workers: int = 2
    """Processes that read audio; 0 reads in the trainer's own. The batches are the same for any number."""
    cache: bool = False
    """Keep decoded audio in memory (115 MB an hour) so that later epochs read nothing; for small corpora."""
    bad_share: float = 0.01
    """Utterances that the validation names, or whose audio cannot be read later, are left out and named. Training stops
    where they are more than this share: of the manifests, and of what was read so far (of 1,000 at first)."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.weights and len(self.weights) != len(self.train):
            raise ValueError(
                f"weights: {len(self.weights)} for {len(self.train)} train manifests; give one for each"
            )
        if any(weight < 0 for weight in self.weights):
            raise ValueError("weights: a weight is negative")
        if self.plain_epochs < 0:
            raise ValueError("plain_epochs must be at least 0")
        if not self.speeds or min(self.speeds) <= 0:
            raise ValueError("speeds: give at least one, all above zero")
        if not 0 <= self.min_seconds < self.max_seconds:
            raise ValueError("min_seconds must be at least 0 and below max_seconds")
        if self.max_seconds / min(self.speeds) > self.max_duration:
            raise ValueError(
                f"max_duration: an utterance of max_seconds={self.max_seconds:g} at speed {min(self.speeds):g} lasts "
                f"{self.max_seconds / min(self.speeds):.1f} s and fits no batch of {self.max_duration:g} s"
            )
        if not 0 <= self.jitter < 1:
            raise ValueError("jitter must be at least 0 and below 1")
