"""Changes of whole batches of features: SpecAugment (Park et al. 2019; time masks relative to length as in Park et al.
2020) and CutMix.

Features are (B, T, F), lens (B,) in frames; each gives a new tensor of the same shape, or (views * B, T, F) for more
views of each utterance. Randomness comes from the `generator` alone (of the CPU, also for features on another device).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from asr.dataset.augment.config import Augmentation, CutMixConfig, SpecAugmentConfig

__all__ = ["CutMix", "SpecAugment", "Spectral"]

Uniform = Callable[..., Tensor]


class Spectral:
    """The steps of `data.augment` that change features, in their order; `steps` is empty where there are none."""

    def __init__(self, augment: Sequence[Augmentation]) -> None:
        self.steps: list[SpecAugment | CutMix] = []
        for step in augment:
            match step:
                case SpecAugmentConfig():
                    self.steps.append(SpecAugment(step))
                case CutMixConfig():
                    self.steps.append(CutMix(step))

    def __call__(
        self, features: Tensor, lens: Tensor, *, views: int = 1, generator: torch.Generator | None = None
    ) -> Tensor:
        """More than one of `views` needs SpecAugment, which is the last step and makes them."""
        for step in self.steps:
            if isinstance(step, SpecAugment):
                features = step(features, lens, views=views, generator=generator)
            else:
                features = step(features, lens, generator=generator)
        return features


class CutMix:
    """Puts stripes of another utterance of the batch, the same for all as far behind it, into an utterance."""

    def __init__(self, config: CutMixConfig | None = None) -> None:
        self.config = config or CutMixConfig()

    @torch.no_grad()
    def __call__(self, features: Tensor, lens: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        batch, frames, bins = features.shape
        uniform = _uniform(generator)
        chosen = uniform(batch) < self.config.probability
        shift = 1 + int(uniform() * (batch - 1)) if batch > 1 else 0
        other, other_lens = features.roll(shift, 0), lens.cpu().roll(shift)
        both = torch.minimum(lens.cpu(), other_lens).double()  # padding is neither pasted nor pasted on
        in_time, in_frequency = _masks(self.config, both, chosen, uniform, frames, bins)
        inside = torch.arange(frames) < both[:, None]
        masked = (in_time[:, :, None] | in_frequency[:, None, :]) & inside[:, :, None]
        return torch.where(masked.to(features.device), other, features)


class SpecAugment:
    """Warps and masks log-mel features. Masked values become the utterance's mean; padding stays as it is.

    Views of an utterance are masked differently and warped alike, so that their frames stay comparable.
    """

    def __init__(self, config: SpecAugmentConfig | None = None) -> None:
        self.config = config or SpecAugmentConfig()

    @torch.no_grad()
    def __call__(
        self, features: Tensor, lens: Tensor, *, views: int = 1, generator: torch.Generator | None = None
    ) -> Tensor:
        config, (batch, frames, bins) = self.config, features.shape
        lengths = lens.cpu().double()

        uniform = _uniform(generator)
        chosen = uniform(batch) < config.probability
        if config.warp_frames > 0:
            features = _warp(features, lengths, chosen, config.warp_frames, uniform(2, batch))
        if views > 1:
            features, lengths, batch = features.repeat(views, 1, 1), lengths.repeat(views), batch * views
            chosen = uniform(batch) < config.probability
        in_time, in_frequency = _masks(config, lengths, chosen, uniform, frames, bins)

        inside = (torch.arange(frames) < lengths[:, None])[:, :, None].to(features.device)
        masked = (in_time[:, :, None] | in_frequency[:, None, :]).to(features.device) & inside
        total = torch.where(inside, features, 0.0).sum(dim=(1, 2))
        mean = total / (inside.sum(dim=(1, 2)) * bins).clamp(min=1)
        return torch.where(masked, mean.to(features.dtype)[:, None, None], features)


def _uniform(generator: torch.Generator | None) -> Uniform:
    """Numbers in [0, 1) of a shape."""
    return lambda *shape: torch.rand(shape, generator=generator, dtype=torch.float64)


def _masks(
    config: SpecAugmentConfig | CutMixConfig,
    lengths: Tensor,
    chosen: Tensor,
    uniform: Uniform,
    frames: int,
    bins: int,
) -> tuple[Tensor, Tensor]:
    """Stripes in time (B, T) and in frequency (B, F) of those utterances that are `chosen`."""
    batch = len(lengths)
    # Time: as many masks as the share needs at full length, then each at most the share's part.
    budget = config.time_share * lengths
    count = (budget / config.time_frames).ceil().clamp(max=config.time_masks)
    longest = (budget / count.clamp(min=1)).floor().clamp(max=config.time_frames)
    counted = torch.arange(config.time_masks) < count[:, None]
    width = (uniform(batch, config.time_masks) * (longest[:, None] + 1)).floor() * counted * chosen[:, None]
    in_time = _stripes(width, lengths[:, None], uniform(batch, config.time_masks), frames)
    # Frequency: independent masks of at most `frequency_bins` each.
    widest = min(config.frequency_bins, bins)
    width = (uniform(batch, config.frequency_masks) * (widest + 1)).floor() * chosen[:, None]
    places = uniform(batch, config.frequency_masks)
    return in_time, _stripes(width, torch.tensor(float(bins)), places, bins)


def _stripes(width: Tensor, size: Tensor, place: Tensor, total: int) -> Tensor:
    """Masks (B, total): True in stripes of `width` (B, M), each placed at random by `place` in [0, 1) within
    `size`."""
    start = (place * (size - width + 1).clamp(min=1)).floor()
    at = torch.arange(total)[None, None, :]
    return ((at >= start[:, :, None]) & (at < (start + width)[:, :, None])).any(dim=1)


def _warp(features: Tensor, lengths: Tensor, chosen: Tensor, furthest: int, place: Tensor) -> Tensor:
    """Move one frame of each utterance by at most `furthest`, stretching linearly what is left and right of
    it.

    Utterances too short to have such a frame stay. place (2, B) in [0, 1).
    """
    batch, frames, _ = features.shape
    moved = chosen & (lengths > 2 * furthest + 1)
    last = lengths - 1
    source = furthest + (place[0] * (last - 2 * furthest)).floor()
    target = source - furthest + 1 + (place[1] * (2 * furthest - 1)).floor()
    at = torch.arange(frames, dtype=torch.float64).expand(batch, frames)
    source, target, last = (value[:, None].clamp(min=1) for value in (source, target, last))
    before = at * source / target
    after = source + (at - target) * (last - source) / (last - target).clamp(min=1)
    position = torch.where(moved[:, None] & (at <= last), torch.where(at <= target, before, after), at).to(
        features.device
    )
    low = position.floor().long().clamp(0, frames - 1)
    high = (low + 1).clamp(max=frames - 1)
    share = (position - low).to(features.dtype)[:, :, None]
    rows = torch.arange(batch, device=features.device)[:, None]
    return torch.lerp(features[rows, low], features[rows, high], share)
