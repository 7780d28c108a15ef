"""SpecAugment (Park et al. 2019; time masks relative to length as in Park et al. 2020), on whole batches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["SpecAugment", "SpecAugmentConfig"]


@dataclass(frozen=True, kw_only=True)
class SpecAugmentConfig:
    """Sizes in frequency bins and frames of 10 ms; the defaults are those that icefall trains LibriSpeech
    with."""

    frequency_masks: int = 2
    frequency_bins: int = 27
    """The widest frequency mask."""
    time_masks: int = 10
    time_frames: int = 100
    """The longest time mask."""
    time_share: float = 0.15
    """The most that all time masks of an utterance may cover of it."""
    warp_frames: int = 0
    """The furthest that a point in time is moved; 0 turns warping off, 80 is usual."""
    probability: float = 0.9
    """Of an utterance to be warped and masked at all."""


class SpecAugment:
    """Warps and masks log-mel features. Masked values become the utterance's mean; padding stays as it is.

    Randomness comes from the `generator` alone (of the CPU, also for features on another device).
    """

    def __init__(self, config: SpecAugmentConfig | None = None) -> None:
        self.config = config or SpecAugmentConfig()

    @torch.no_grad()
    def __call__(
        self, features: Tensor, lens: Tensor, *, views: int = 1, generator: torch.Generator | None = None
    ) -> Tensor:
        """Features (B, T, F), lens (B,) in frames -> a new tensor of the same shape, (views * B, T, F) for more views.

        Views of an utterance are masked differently and warped alike, so that their frames stay comparable.
        """
        config, (batch, frames, bins) = self.config, features.shape
        lengths = lens.cpu().double()

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, dtype=torch.float64)

        chosen = uniform(batch) < config.probability
        if config.warp_frames > 0:
            features = _warp(features, lengths, chosen, config.warp_frames, uniform(2, batch))
        if views > 1:
            features, lengths, batch = features.repeat(views, 1, 1), lengths.repeat(views), batch * views
            chosen = uniform(batch) < config.probability
        # Time: as many masks as the share needs at full length, then each at most the share's part.
        budget = config.time_share * lengths
        count = (budget / config.time_frames).ceil().clamp(max=config.time_masks)
        longest = (budget / count.clamp(min=1)).floor().clamp(max=config.time_frames)
        counted = torch.arange(config.time_masks) < count[:, None]
        width = (
            (uniform(batch, config.time_masks) * (longest[:, None] + 1)).floor() * counted * chosen[:, None]
        )
        in_time = _stripes(width, lengths[:, None], uniform(batch, config.time_masks), frames)
        # Frequency: independent masks of at most `frequency_bins` each.
        widest = min(config.frequency_bins, bins)
        width = (uniform(batch, config.frequency_masks) * (widest + 1)).floor() * chosen[:, None]
        in_frequency = _stripes(
            width, torch.tensor(float(bins)), uniform(batch, config.frequency_masks), bins
        )

        inside = (torch.arange(frames) < lengths[:, None])[:, :, None].to(features.device)
        masked = (in_time[:, :, None] | in_frequency[:, None, :]).to(features.device) & inside
        total = torch.where(inside, features, 0.0).sum(dim=(1, 2))
        mean = total / (inside.sum(dim=(1, 2)) * bins).clamp(min=1)
        return torch.where(masked, mean.to(features.dtype)[:, None, None], features)


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
