"""Transducer losses against sums over all paths, finite differences and each other."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from asr import native
from asr.losses import lattice
from asr.losses.transducer import (
    Joiner,
    Topology,
    full_loss,
    gather_pruned,
    joiner_pruned_loss,
    pruned_loss,
    pruning_ranges,
    simple_loss,
)

TOPOLOGIES = get_args(Topology)
SCALES = [(0.0, 0.0), (0.25, 0.0), (0.1, 0.15)]

topologies = st.sampled_from(TOPOLOGIES)
seeds = st.integers(0, 2**32)
fast = settings(deadline=None, max_examples=25)


def paths(t: int, s: int, frames: int, tokens: int, topology: str) -> Iterator[list[tuple[int, int, bool]]]:
    """All paths from state (t, s), as arcs: (frame, tokens so far, whether it gives out a token)."""
    if (t, s) == (frames, tokens):
        yield []
    if t < frames:
        yield from ([(t, s, False), *rest] for rest in paths(t + 1, s, frames, tokens, topology))
        if s < tokens:
            after = t if topology == "regular" else t + 1
            yield from ([(t, s, True), *rest] for rest in paths(after, s + 1, frames, tokens, topology))


def brute_force(logits: Tensor, tokens: Tensor, topology: str, kept: Tensor | None = None) -> float:
    """The loss of one utterance, logits (T, S + 1, V), over the paths whose states are all in kept (T, R)."""
    scores = logits.log_softmax(-1)
    total = -math.inf
    for path in paths(0, 0, len(logits), len(tokens), topology):
        if kept is None or all(s in kept[t] for t, s, _ in path):
            score = sum(float(scores[t, s, int(tokens[s]) if emits else 0]) for t, s, emits in path)
            total = max(total, score) + math.log1p(math.exp(-abs(total - score)))
    return -total


def draw(seed: int, frames: int = 4, states: int = 4, size: int = 5, batch: int = 3) -> tuple[Tensor, ...]:
    """Float64 am, lm; tokens; lengths between 0 and all, one of them all."""
    make = torch.Generator().manual_seed(seed)
    am = 2 * torch.randn(batch, frames, size, generator=make, dtype=torch.float64)
    lm = 2 * torch.randn(batch, states, size, generator=make, dtype=torch.float64)
    tokens = torch.randint(1, size, (batch, states - 1), generator=make)
    token_lens = torch.randint(0, states, (batch,), generator=make)
    frame_lens = torch.randint(0, frames + 1, (batch,), generator=make)
    token_lens[0], frame_lens[0] = states - 1, frames
    return am, lm, tokens, token_lens, frame_lens


@fast
@given(seed=seeds, frames=st.integers(1, 4), states=st.integers(1, 4), topology=topologies)
def test_losses_sum_over_all_paths(seed: int, frames: int, states: int, topology: Topology) -> None:
    am, lm, *lens = draw(seed, frames, states)
    logits = am[:, :, None] + lm[:, None]
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 2e-5)):
        full = full_loss(logits.to(dtype), *lens, topology=topology)
        simple, _ = simple_loss(am.to(dtype), lm.to(dtype), *lens, topology=topology)
        for b, (s, t) in enumerate(zip(lens[1].tolist(), lens[2].tolist(), strict=True)):
            expected = brute_force(logits[b, :t, : s + 1], lens[0][b, :s], topology)
            assert float(full[b]) == pytest.approx(expected, abs=tolerance, rel=tolerance)
            assert float(simple[b]) == pytest.approx(expected, abs=tolerance, rel=tolerance)


@fast
@given(seed=seeds, width=st.integers(2, 4), topology=topologies)
def test_pruned_loss_sums_over_the_paths_within_the_ranges(seed: int, width: int, topology: Topology) -> None:
    am, lm, *lens = draw(seed, frames=5)
    logits = am[:, :, None] + lm[:, None]
    _, occupation = simple_loss(am, lm, *lens, topology=topology)
    ranges = pruning_ranges(occupation, *lens[1:], width=width, topology=topology)
    index = ranges[..., None].expand(-1, -1, -1, logits.shape[-1])
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 2e-5)):
        loss = pruned_loss(logits.gather(2, index).to(dtype), lens[0], ranges, *lens[1:], topology=topology)
        for b, (s, t) in enumerate(zip(lens[1].tolist(), lens[2].tolist(), strict=True)):
            expected = brute_force(logits[b, :t, : s + 1], lens[0][b, :s], topology, ranges[b])
            assert float(loss[b]) == pytest.approx(expected, abs=tolerance, rel=tolerance)


@fast
@given(seed=seeds, scales=st.sampled_from(SCALES), topology=topologies)
def test_smoothing_mixes_the_arcs(seed: int, scales: tuple[float, float], topology: Topology) -> None:
    am, lm, *lens = draw(seed)
    lm_scale, am_scale = scales
    loss, _ = simple_loss(am, lm, *lens, lm_scale=lm_scale, am_scale=am_scale, topology=topology)
    mean = lm.softmax(2).mean((0, 1)).log()
    mixed = (
        (1 - lm_scale - am_scale) * (am[:, :, None] + lm[:, None]).log_softmax(3)
        + lm_scale * lm.log_softmax(2)[:, None]
        + am_scale * (am + mean).log_softmax(2)[:, :, None]
    )
    tokens, token_lens, frame_lens = lens
    index = torch.nn.functional.pad(tokens, (0, 1))[:, None, :, None].expand(-1, am.shape[1], -1, 1)
    arcs = mixed.gather(3, index)[..., 0], mixed[..., 0]
    expected, _ = lattice.lattice_loss(lattice.Lattice(*arcs, None, token_lens, frame_lens, topology))
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("scales", SCALES)
def test_gradients_of_the_simple_loss_are_finite_differences(
    topology: Topology, scales: tuple[float, float]
) -> None:
    am, lm, tokens, token_lens, _ = draw(1)
    lens = tokens, token_lens, torch.tensor([4, 3, 4])

    def loss(am: Tensor, lm: Tensor) -> Tensor:
        return simple_loss(am, lm, *lens, lm_scale=scales[0], am_scale=scales[1], topology=topology)[0]

    assert torch.autograd.gradcheck(loss, (am.requires_grad_(), lm.requires_grad_()))


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_gradients_of_the_pruned_and_full_losses_are_finite_differences(topology: Topology) -> None:
    am, lm, tokens, _, _ = draw(2, size=4)
    lens = torch.tensor([3, 0, 2]), torch.tensor([4, 2, 3])
    _, occupation = simple_loss(am, lm, tokens, *lens, topology=topology)
    ranges = pruning_ranges(occupation, *lens, width=2, topology=topology)
    weight = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    bias = torch.linspace(-1, 1, 4, dtype=torch.float64)

    def pruned(*leaves: Tensor) -> Tensor:
        return joiner_pruned_loss(Joiner(*leaves), tokens, ranges, *lens, topology=topology)

    def full(am: Tensor, lm: Tensor) -> Tensor:
        return full_loss(am[:, :, None] * lm[:, None], tokens, *lens, topology=topology)

    leaves = [x.requires_grad_() for x in (am, lm, weight, bias)]
    assert torch.autograd.gradcheck(pruned, leaves)
    assert torch.autograd.gradcheck(full, leaves[:2])


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("width", [2, 5, 12])
@pytest.mark.parametrize("spread", [0.1, 1.0, 30.0])
def test_kernels_agree_with_torch(topology: Topology, width: int, spread: float) -> None:
    """In float32 against float64, from flat lattices to those where one path has everything."""
    if not native.available():
        pytest.skip(native.reason())
    am, lm, *lens = draw(5, frames=40, states=12, size=17, batch=4)
    lens[1:] = torch.tensor([11, 0, 7, 10]), torch.tensor([40, 40, 20, 11])
    weight, bias = torch.randn(17, 17, dtype=torch.float64), torch.randn(17, dtype=torch.float64)
    weight = weight * spread
    _, occupation = simple_loss(am * spread, lm, *lens, topology=topology)
    ranges = pruning_ranges(occupation, *lens[1:], width=width, topology=topology)
    scale = torch.tensor([1.0, -2.0, 0.5, 3.0])

    def run(dtype: torch.dtype) -> list[Tensor]:
        leaves = [x.detach().to(dtype).requires_grad_() for x in (am, lm, weight, bias)]
        results = []
        first, second = gather_pruned(leaves[0], leaves[1], ranges)
        logits = torch.tanh(first + second) @ leaves[2].T + leaves[3]
        for loss in (
            simple_loss(leaves[0] * spread, leaves[1], *lens, lm_scale=0.2, topology=topology)[0],
            pruned_loss(logits, lens[0], ranges, *lens[1:], topology=topology),
            joiner_pruned_loss(Joiner(*leaves), lens[0], ranges, *lens[1:], topology=topology),
        ):
            gradients = torch.autograd.grad((loss * scale.to(dtype)).sum(), leaves, allow_unused=True)
            results += [loss.detach(), *(g for g in gradients if g is not None)]
        return results

    for ours, expected in zip(run(torch.float32), run(torch.float64), strict=True):
        size = max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(
            ours.double() / size, expected / size, atol=1e-5 * max(1.0, spread), rtol=0.0
        )


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("banded", [False, True])
def test_the_lattice_kernel_is_the_reference(topology: Topology, banded: bool) -> None:
    if not native.available():
        pytest.skip(native.reason())
    make = torch.Generator().manual_seed(7)
    symbol, blank = (-4 * torch.rand(6, 30, 5, generator=make) for _ in range(2))
    frame_lens = torch.tensor([30, 30, 0, 1, 17, 30])
    token_lens = torch.tensor([9, 4, 0, 1, 5, 0]) if banded else torch.tensor([4, 3, 0, 1, 4, 0])
    begin = (torch.arange(30) // 4).clamp(max=(token_lens - 4).clamp(min=0)[:, None]) if banded else None
    case = lattice.Lattice(symbol, blank, begin, token_lens, frame_lens, topology)
    scores, flow = lattice.solve(case)
    exact = lattice.solve_in_torch(case._replace(symbol=symbol.double(), blank=blank.double()))
    torch.testing.assert_close(scores.double(), exact[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(flow.symbol.double(), exact[1].symbol, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(flow.blank.double(), exact[1].blank, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_occupation_is_a_flow_of_one_path(kernels: str, topology: Topology) -> None:
    am, lm, tokens, token_lens, _ = draw(11, frames=9)
    frame_lens = torch.tensor([9, 8, 5])
    _, (symbol, blank) = simple_loss(
        am.float(), lm.float(), tokens, token_lens, frame_lens, topology=topology
    )
    torch.testing.assert_close(symbol.sum((1, 2)), token_lens.float())
    steps = frame_lens - (token_lens if topology == "modified" else 0)
    torch.testing.assert_close(blank.sum((1, 2)), steps.float())


@fast
@given(seed=seeds, width=st.integers(2, 5), topology=topologies)
def test_ranges_lead_from_the_first_token_to_the_last(seed: int, width: int, topology: Topology) -> None:
    am, lm, tokens, token_lens, frame_lens = draw(seed, frames=12, states=8)
    frame_lens = frame_lens.clamp(min=8)
    _, occupation = simple_loss(am, lm, tokens, token_lens, frame_lens, topology=topology)
    ranges = pruning_ranges(occupation, token_lens, frame_lens, width=width, topology=topology)
    begin = ranges[:, :, 0]
    assert ranges.shape == (3, 12, width)
    assert (ranges.diff(dim=2) == 1).all()
    assert (begin[:, 0] == 0).all()
    steps = begin.diff(dim=1)
    assert steps.min() >= 0
    assert steps.max() <= (width - 1 if topology == "regular" else 1)
    ends = ranges[torch.arange(3), frame_lens - 1]
    assert (ends == token_lens[:, None]).any(1).all()
    assert ranges.max() <= 7
    weight = torch.eye(5, dtype=torch.float64)
    loss = joiner_pruned_loss(
        Joiner(am, lm, weight), tokens, ranges, token_lens, frame_lens, topology=topology
    )
    assert loss.isfinite().all()


def run_all(
    am: Tensor, lm: Tensor, *lens: Tensor, topology: Topology
) -> list[tuple[Tensor, tuple[Tensor, ...]]]:
    """Each loss of one case, with its gradients."""
    am, lm = (x.detach().float().requires_grad_() for x in (am, lm))
    simple, occupation = simple_loss(am, lm, *lens, lm_scale=0.25, topology=topology)
    ranges = pruning_ranges(occupation, *lens[1:], width=3, topology=topology)
    fused = joiner_pruned_loss(
        Joiner(am, lm, torch.eye(am.shape[2])), lens[0], ranges, *lens[1:], topology=topology
    )
    full = full_loss(am[:, :, None] + lm[:, None], *lens, topology=topology)
    return [(x, torch.autograd.grad(x[x.isfinite()].sum(), (am, lm))) for x in (simple, fused, full)]


def test_an_utterance_without_paths_is_infinite_and_leaves_the_others_alone(kernels: str) -> None:
    am, lm, tokens, _, _ = draw(13)
    lens = tokens, torch.tensor([3, 3, 1]), torch.tensor([4, 2, 0])
    for loss, gradients in run_all(am, lm, *lens, topology="modified"):
        assert loss.isinf().tolist() == [False, True, True]
        assert (loss[1:] > 0).all()
        assert all(g.isfinite().all() and not g[1:].any() and g[0].any() for g in gradients)
    for loss, _ in run_all(am, lm, *lens, topology="regular"):
        assert loss.isinf().tolist() == [False, False, True]


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_no_tokens_are_blanks_only_and_no_frames_are_certain(kernels: str, topology: Topology) -> None:
    am, lm, tokens, _, _ = draw(17)
    lens = tokens, torch.tensor([0, 0, 3]), torch.tensor([4, 0, 4])
    blanks = -(am + lm[:, :1]).log_softmax(2)[0, :, 0].sum()
    results = run_all(am, lm, *lens, topology=topology)
    torch.testing.assert_close(results[2][0][0].double(), blanks, rtol=1e-5, atol=1e-5)
    for loss, _ in results:
        assert loss.isfinite().all()
        assert loss[1] == 0.0
    nothing = simple_loss(
        am.float(), lm[:, :1].float(), tokens[:, :0], lens[1] * 0, lens[2], topology=topology
    )[0]
    torch.testing.assert_close(nothing[0].double(), blanks, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_padding_is_invisible(kernels: str, topology: Topology) -> None:
    am, lm, tokens, token_lens, _ = draw(19, frames=6)
    lens = token_lens, torch.tensor([6, 5, 4])
    padded = (
        torch.cat([am, 50 * torch.ones(3, 3, 5)], 1),
        torch.cat([lm, -50 * torch.ones(3, 2, 5)], 1),
        torch.cat([tokens, torch.full((3, 2), -1)], 1),
    )
    results = zip(
        run_all(am, lm, tokens, *lens, topology=topology),
        run_all(*padded, *lens, topology=topology),
        strict=True,
    )
    for (loss, gradients), (padded_loss, padded_gradients) in results:
        torch.testing.assert_close(loss, padded_loss, rtol=1e-6, atol=1e-5)
        torch.testing.assert_close(gradients[0], padded_gradients[0][:, :6], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(gradients[1], padded_gradients[1][:, :4], rtol=1e-5, atol=1e-6)
        assert not padded_gradients[0][:, 6:].any()
        assert not padded_gradients[1][:, 4:].any()


def test_a_nan_stays_in_its_utterance(kernels: str) -> None:
    am, lm, *_ = draw(23)
    am[1, 2, 3] = math.nan
    lens = torch.tensor([[1, 2, 3]] * 3), torch.tensor([3, 3, 3]), torch.tensor([4, 4, 4])
    for loss in (
        full_loss((am[:, :, None] + lm[:, None]).float(), *lens),
        simple_loss(am.float(), lm.float(), *lens)[0],
    ):
        assert loss.isnan().tolist() == [False, True, False]


def test_half_precision_is_computed_in_float32(kernels: str) -> None:
    am, lm, tokens, token_lens, _ = draw(29)
    lens = tokens, token_lens, torch.tensor([4, 4, 4])
    am, lm = am.bfloat16().requires_grad_(), lm.bfloat16()
    ranges = torch.arange(4).expand(3, 4, -1)
    with torch.autocast("cpu", torch.bfloat16):
        fused = joiner_pruned_loss(Joiner(am, lm, torch.eye(5), torch.zeros(5)), tokens, ranges, *lens[1:])
        full = full_loss((am[:, :, None].float() + lm[:, None].float()).tanh(), *lens)
        simple, _ = simple_loss(am, lm, *lens)
        pruned = pruned_loss(am[:, :, None] + lm[:, None], tokens, ranges, *lens[1:])
    assert {x.dtype for x in (fused, full, simple, pruned)} == {torch.float32}
    torch.testing.assert_close(fused, full)
    (fused + simple + pruned).sum().backward()
    assert am.grad is not None
    assert am.grad.dtype is torch.bfloat16


def test_without_gradients_the_fused_loss_is_the_same(kernels: str) -> None:
    am, lm, tokens, token_lens, _ = draw(31)
    case = (
        Joiner(am.float(), lm.float(), torch.eye(5).requires_grad_()),
        tokens,
        torch.arange(4).expand(3, 4, -1),
    )
    lens = token_lens, torch.tensor([4, 4, 4])
    with torch.no_grad():
        free = joiner_pruned_loss(*case, *lens)
    assert torch.equal(free, joiner_pruned_loss(*case, *lens))


def test_wrong_shapes_lengths_and_tokens_are_named() -> None:
    am, lm, tokens, token_lens, _ = draw(37)
    frame_lens = torch.tensor([4, 4, 4])
    with pytest.raises(ValueError, match="frame_lens between 4 and 5"):
        simple_loss(am, lm, tokens, token_lens, frame_lens + torch.tensor([0, 1, 0]))
    with pytest.raises(ValueError, match="token_lens must be int64"):
        simple_loss(am, lm, tokens, token_lens.int(), frame_lens)
    with pytest.raises(ValueError, match=r"tokens of shape \(3, 2\), expected \(3, 3\)"):
        simple_loss(am, lm, tokens[:, 1:], token_lens, frame_lens)
    with pytest.raises(ValueError, match="must lie in 0 ... 4"):
        simple_loss(am, lm, tokens + 5, token_lens, frame_lens)
    with pytest.raises(ValueError, match="ranges of shape"):
        pruned_loss(am[:, :, None], tokens, torch.zeros(3, 4, 2).long(), token_lens, frame_lens)
    with pytest.raises(ValueError, match="takes 2 states"):
        pruning_ranges(
            simple_loss(am, lm, tokens, token_lens, frame_lens)[1], token_lens, frame_lens, width=1
        )
