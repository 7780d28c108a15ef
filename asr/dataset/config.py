"""What to train and measure on, and how to batch it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from asr.dataset.augment.config import Augmentation, Concatenate, SpecAugmentConfig, Speed, check_order, only
from asr.dataset.sampler import Joining

__all__ = ["DataConfig"]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What to read and how to batch it; times are in seconds. `train`, `dev` and `test` name manifests (Lhotse cuts in
    JSON lines, gzipped or not), folders of shards, or tars, here or by URL: see asr/dataset/shards.py.

    Raises:
        ValueError: values that contradict one another.
    """

    train: tuple[str | Path, ...]
    dev: tuple[str | Path, ...] = ()
    test: tuple[str | Path, ...] = ()
    weights: tuple[float, ...] = ()
    """How often each of `train` is seen per epoch; 0.3 takes another 30 % of it each epoch. Empty: each
    once."""
    max_duration: float = 200.0
    """Of a batch, padding included."""
    jitter: float = 0.05
    """Batches hold utterances of like length: each epoch sorts by duration times a random factor in 1 +-
    `jitter`. More mixes utterances better and pads more: about 4 % of a batch is padding at 0.05, 9 % at
    0.1."""
    augment: tuple[Augmentation, ...] = (Speed(), SpecAugmentConfig())
    """Changes of the training data, in order: see asr/dataset/augment/config.py. [] turns them off."""
    plain_epochs: int = 0
    """So many epochs come first without augmentation. A small corpus's model finds
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
    shards_at_once: int = 8
    """Shards that batches are made of at a time: more mixes utterances better and needs more of them at hand."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.weights and len(self.weights) != len(self.train):
            raise ValueError(
                f"weights: {len(self.weights)} for {len(self.train)} train manifests; give one for each"
            )
        if any(weight < 0 for weight in self.weights):
            raise ValueError("weights: a weight is negative")
        if self.shards_at_once < 1:
            raise ValueError("shards_at_once must be at least 1")
        if self.plain_epochs < 0:
            raise ValueError("plain_epochs must be at least 0")
        check_order(self.augment)
        if not 0 <= self.min_seconds < self.max_seconds:
            raise ValueError("min_seconds must be at least 0 and below max_seconds")
        slowest = self.max_seconds / min(self.speeds)
        if slowest > self.max_duration:
            raise ValueError(
                f"max_duration: an utterance of max_seconds={self.max_seconds:g} at speed {min(self.speeds):g} lasts "
                f"{slowest:.1f} s and fits no batch of {self.max_duration:g} s"
            )
        if self.joining is not None and self.joining.max_seconds > self.max_duration:
            raise ValueError(
                f"augment: concatenate to {self.joining.max_seconds:g} s fits no batch of {self.max_duration:g} s"
            )
        if not 0 <= self.jitter < 1:
            raise ValueError("jitter must be at least 0 and below 1")

    @property
    def speeds(self) -> tuple[float, ...]:
        """Those that utterances are played at."""
        speed = only(self.augment, Speed)
        return (1.0,) if speed is None else speed.factors

    @property
    def joining(self) -> Joining | None:
        """How utterances become one, if they do."""
        step = only(self.augment, Concatenate)
        if step is None:
            return None
        return Joining(step.probability, step.max_seconds or self.max_seconds, step.pause)
