from __future__ import annotations

import pytest
import torch

from asr.dataset.augment import CutMix, CutMixConfig, SpecAugment, SpecAugmentConfig, Spectral

FEATURES = torch.randn(16, 800, 80, generator=torch.Generator().manual_seed(0)) + 100.0
LENS = torch.tensor([800, 700, 433, 60] * 4)


def apply(config: SpecAugmentConfig, seed: int = 1, features=FEATURES, lens=LENS):
    return SpecAugment(config)(features, lens, generator=torch.Generator().manual_seed(seed))


def changed(result):
    return result != FEATURES


def test_the_generator_alone_decides():
    config = SpecAugmentConfig(warp_frames=80)
    before = FEATURES.clone()
    torch.manual_seed(3)
    one = apply(config)
    torch.manual_seed(4)
    assert torch.equal(one, apply(config))
    assert not torch.equal(one, apply(config, seed=2))
    assert torch.equal(FEATURES, before), "the input stays"


def test_padding_is_untouched_and_does_not_matter():
    config = SpecAugmentConfig(warp_frames=20)
    inside = torch.arange(800) < LENS[:, None]
    assert not changed(apply(config))[~inside].any()
    other = torch.where(inside[:, :, None], FEATURES, -7.0)
    assert torch.allclose(apply(config)[inside], apply(config, features=other)[inside])


def test_time_masks_cover_at_most_their_share():
    config = SpecAugmentConfig(frequency_masks=0, probability=1.0)
    for seed in range(20):
        covered = changed(apply(config, seed)).all(dim=2).sum(dim=1)
        assert (covered <= 0.15 * LENS).all()
    total = torch.stack([changed(apply(config, seed)).all(dim=2).sum(dim=1) for seed in range(20)])
    assert total.double().mean(dim=0)[0] > 30, "of the 120 frames allowed, about half"


def test_one_time_mask_is_at_most_its_longest():
    config = SpecAugmentConfig(
        frequency_masks=0, time_masks=1, time_frames=25, time_share=1.0, probability=1.0
    )
    widths = {int(w) for seed in range(30) for w in changed(apply(config, seed)).all(dim=2).sum(dim=1)}
    assert max(widths) == 25
    assert min(widths) == 0


def test_frequency_masks_are_whole_bands_of_at_most_their_width():
    config = SpecAugmentConfig(time_masks=0, probability=1.0)
    most = 0
    for seed in range(20):
        mask = changed(apply(config, seed))
        for row, length in zip(mask, LENS.tolist(), strict=True):
            band = row[:length].all(dim=0)
            assert torch.equal(row[:length].any(dim=0), band)
            most = max(most, int(band.sum()))
    assert 27 < most <= 54


def test_masked_values_are_the_mean_of_the_utterance():
    result = apply(SpecAugmentConfig(probability=1.0))
    for row, masked, mask, length in zip(FEATURES, result, changed(result), LENS.tolist(), strict=True):
        assert torch.allclose(masked[mask], row[:length].mean().expand(int(mask.sum())), atol=1e-3)


def test_probability_zero_changes_nothing_and_a_half_about_half():
    assert torch.equal(apply(SpecAugmentConfig(probability=0.0, warp_frames=20)), FEATURES)
    rows = sum(
        changed(apply(SpecAugmentConfig(probability=0.5), seed)).any(dim=(1, 2)).sum() for seed in range(40)
    )
    assert 0.4 < float(rows) / (40 * 16) < 0.6


def test_warping_keeps_ends_and_order_and_moves_by_at_most_its_limit():
    config = SpecAugmentConfig(time_masks=0, frequency_masks=0, warp_frames=30, probability=1.0)
    ramp = torch.arange(800.0)[None, :, None].expand(16, 800, 80).contiguous()
    warped = apply(config, features=ramp)
    moved = 0
    for row, before, length in zip(warped, ramp, LENS.tolist(), strict=True):
        assert row[0, 0] == 0
        assert row[length - 1, 0] == pytest.approx(length - 1, abs=1e-3)
        assert (row[:length].diff(dim=0) > 0).all()
        shift = (row[:length] - before[:length]).abs().max()
        assert shift <= 30
        moved += int(shift > 3)
        if length == 60:
            assert torch.equal(row, before), "too short to warp by 30 frames either way"
    assert moved >= 8


@pytest.mark.parametrize("frames", [0, 1, 5])
def test_short_utterances_pass(frames):
    features = torch.ones(2, frames, 80)
    result = apply(
        SpecAugmentConfig(warp_frames=80, probability=1.0), features=features, lens=torch.tensor([frames, 0])
    )
    assert result.shape == features.shape
    assert torch.isfinite(result).all()


def test_views_are_warped_alike_and_masked_differently():
    ramp = torch.arange(800.0)[None, :, None].expand(16, 800, 80).contiguous()
    plain = SpecAugmentConfig(time_masks=0, frequency_masks=0, warp_frames=30, probability=1.0)
    generator = torch.Generator().manual_seed(1)
    one, two = SpecAugment(plain)(ramp, LENS, views=2, generator=generator).chunk(2)
    assert torch.equal(one, two) and torch.equal(one, apply(plain, features=ramp))
    masked = SpecAugmentConfig(probability=1.0)
    generator.manual_seed(1)
    one, two = SpecAugment(masked)(FEATURES, LENS, views=2, generator=generator).chunk(2)
    assert (changed(one) != changed(two)).any(dim=(1, 2)).all()
    assert torch.equal(one[~changed(one)], FEATURES[~changed(one)])


def test_cutmix_takes_stripes_of_another_utterance_and_leaves_padding():
    features = torch.arange(4.0)[:, None, None].expand(4, 300, 80).contiguous()
    lens = torch.tensor([300, 250, 200, 40])
    config = CutMixConfig(probability=1.0, time_masks=2, frequency_masks=1)
    covered = []
    for seed in range(20):
        mixed = CutMix(config)(features, lens, generator=torch.Generator().manual_seed(seed))
        (shift,) = {int((i - v) % 4) for i in range(4) for v in mixed[i].unique().tolist() if v != i}
        assert 1 <= shift <= 3
        for i, length in enumerate(lens.tolist()):
            changed = mixed[i] != features[i]
            both = min(length, int(lens[(i - shift) % 4]))
            assert not changed[both:].any()
            assert (mixed[i][changed] == (i - shift) % 4).all()
            band, span = changed[:both].all(dim=0), changed[:both].all(dim=1)
            assert torch.equal(changed[:both], band[None, :] | span[:, None])
            assert band.sum() <= 15 and span.sum() <= 0.1 * both
            covered.append(float(changed[:both].float().mean()))
    assert 0.05 < sum(covered) / len(covered) < 0.25


def test_cutmix_of_one_utterance_and_of_none_chosen_is_nothing():
    one = CutMix(CutMixConfig(probability=1.0))(FEATURES[:1], LENS[:1])
    assert torch.equal(one, FEATURES[:1])
    assert torch.equal(CutMix(CutMixConfig(probability=0.0))(FEATURES, LENS), FEATURES)


def test_steps_follow_one_another():
    both = Spectral([CutMixConfig(probability=1.0), SpecAugmentConfig(probability=1.0)])
    first, second = (torch.Generator().manual_seed(7) for _ in range(2))
    mixed = CutMix(both.steps[0].config)(FEATURES, LENS, generator=second)
    expected = SpecAugment(both.steps[1].config)(mixed, LENS, generator=second)
    assert torch.equal(both(FEATURES, LENS, generator=first), expected)
