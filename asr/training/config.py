"""What a recipe's YAML may say about training."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from asr.dataset import SpecAugmentConfig
from asr.training.fine_tune import FineTuneConfig
from asr.training.loggers import LoggerConfig

__all__ = ["ConsistencyConfig", "TrainConfig"]


@dataclass(frozen=True, kw_only=True)
class ConsistencyConfig:
    """CR-CTC (Yao et al. 2024): two views of each utterance, masked differently, have to agree frame by frame.

    All heads train on both views, so a batch takes twice the time and memory: halve `data.max_duration`, and expect
    half the epochs to do.
    """

    weight: float = 0.2  # of the disagreement, beside a CTC loss of 1
    time_masking: float = (
        2.5  # times as many time masks, covering as many times the share, as data.augment's spec_augment says
    )

    def __post_init__(self) -> None:
        if self.weight < 0 or self.time_masking <= 0:
            raise ValueError("weight must be at least 0 and time_masking more than 0")

    def masking(self, config: SpecAugmentConfig) -> SpecAugmentConfig:
        """The masking of each view. Raises ValueError where it would cover everything."""
        share = config.time_share * self.time_masking
        if share >= 1:
            raise ValueError(
                f"time_masking: {self.time_masking:g} times spec_augment's time_share {config.time_share:g} masks "
                "whole utterances; make one of them smaller"
            )
        return replace(config, time_masks=round(config.time_masks * self.time_masking), time_share=share)


@dataclass(frozen=True)
class TrainConfig:
    """How long, how fast and how often. A batch is one optimizer step, `accumulate` batches of the data.

    Length: training ends when `epochs` or `hours` (of wall time, over all resumed runs) is reached, whichever first.
    """

    hours: float | None = None
    epochs: float = 30.0
    seed: int = 1
    threads: int = 0  # 0: as many as the process may use
    precision: Literal["auto", "32", "bf16"] = "auto"  # auto: bf16 where the device computes it in hardware
    strategy: Literal["ddp", "fsdp"] = (
        "ddp"  # of several processes: the whole model in each, or a share of it
    )
    accumulate: int = 1
    activation_checkpointing: bool = False  # blocks run twice, for a fraction of their memory

    optimizer: Literal["scaled_adam", "adamw"] = (
        "scaled_adam"  # adamw (at a base_lr of 0.001) for small, short runs
    )
    # What the rate falls with: see asr/training/schedule.py.
    clock: Literal["batches", "budget", "linear"] = "batches"
    base_lr: float = 0.045
    lr_batches: float = 7500.0
    lr_epochs: float = 3.5
    lr_share: float = 0.1  # of the budget, for clock: budget
    warmup_batches: float = 500.0
    clip: float | None = 2.0  # scaled_adam: times the median gradient norm; adamw: the norm itself

    consistency: ConsistencyConfig | None = None  # CR-CTC: {} turns it on
    # Weights of the losses by head or by head and part ("transducer.simple"), or "depth"; unnamed ones weigh 1.
    loss_weights: dict[str, float] = field(default_factory=dict)
    # Modules' own schedules (dropout, Balancer) count batches; set, they count batches of so many seconds of speech.
    # icefall's schedules are tuned for 600. A run that begins with a trained model (`--from`) is past them all.
    scheduled_batch_seconds: float | None = None

    fine_tune: FineTuneConfig = FineTuneConfig()  # of a run that begins with a model

    validate_batches: int | None = None  # None: after every epoch
    validate_minutes: float | None = None
    validate_utterances: int = 400  # at most, spread evenly over the dev set
    save_minutes: float = 10.0
    keep_averages: int = 30  # snapshots of the running average, from which `asr average` takes spans
    average_batches: int = 10  # parameters enter the running average every so many batches
    log_batches: int = 20
    loggers: tuple[LoggerConfig, ...] = ("tensorboard",)  # beside the run's own history and report
    skip_nonfinite: int = (
        0  # batches whose loss or gradient is not finite that are skipped before training stops
    )

    def __post_init__(self) -> None:
        for name in ("epochs", "accumulate", "base_lr", "lr_batches", "lr_epochs", "lr_share", "log_batches"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be more than 0, not {getattr(self, name)}")
        for name in ("average_batches", "keep_averages", "save_minutes", "validate_utterances"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be more than 0, not {getattr(self, name)}")
        for name in ("hours", "clip", "validate_batches", "validate_minutes", "scheduled_batch_seconds"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be more than 0 or null, not {value}")
