"""Eden: the learning rate as a function of batches, epochs or the share of a budget that is used up."""

from __future__ import annotations

__all__ = ["eden", "eden_of_budget", "linear", "warm_up"]

_WARM_UP_START = 0.5


def warm_up(batch: float, batches: float) -> float:
    """A factor that grows from one half to 1 in the first `batches`."""
    return 1.0 if batch >= batches else _WARM_UP_START + (1 - _WARM_UP_START) * batch / batches


def eden(batch: float, epoch: float, *, lr_batches: float, lr_epochs: float, warmup_batches: float) -> float:
    """The factor on the base rate after `batch` batches and `epoch` epochs, a fraction counts (Yao et al. 2023, eq. 8).

    Flat until about `lr_batches` and `lr_epochs`, then falling with the square root of each.
    """
    return _decay(batch / lr_batches) * _decay(epoch / lr_epochs) * warm_up(batch, warmup_batches)


def eden_of_budget(batch: float, share: float, *, lr_share: float, warmup_batches: float) -> float:
    """Eden for a run of known length: both factors fall on one clock, the `share` (0 to 1) of the budget used up.

    So a two-minute run and a week's run follow the same curve, whatever the size of corpus and batch. With
    `lr_share` 0.1 the last rate is a tenth of the first, about what icefall's long recipes end with.
    """
    return _decay(share / lr_share) ** 2 * warm_up(batch, warmup_batches)


def linear(batch: float, share: float, *, warmup_batches: float) -> float:
    """A straight line to 0 over the budget: high for longer than Eden's, and low enough at the end that the last
    weights are as good as averaged ones (Bergsma et al. 2025)."""
    return (1 - share) * warm_up(batch, warmup_batches)


def _decay(ratio: float) -> float:
    return (ratio * ratio + 1) ** -0.25
