"""The token-and-duration loss against sums over all paths, finite differences, and its kernels against the reference."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from asr import native
from asr.losses.durations import DurationLattice, solve_durations, solve_durations_in_torch
from asr.losses.transducer import Joiner, full_loss, joiner_tdt_loss, tdt_loss

seeds = st.integers(0, 2**32)
DURATIONS = [(0, 1, 2, 3, 4), (0, 1), (1, 2), (1,), (0, 1, 3)]


def draw(
    seed: int, durations: tuple[int, ...], frames: int = 4, states: int = 4, size: int = 5, batch: int = 3
) -> tuple[Tensor, ...]:
    """Float64 logits of tokens and durations; tokens; lengths between 0 and all, one of them all."""
    make = torch.Generator().manual_seed(seed)
    shape = (batch, frames, states)
    logits = 2 * torch.randn(*shape, size, generator=make, dtype=torch.float64)
    duration_logits = 2 * torch.randn(*shape, len(durations), generator=make, dtype=torch.float64)
    tokens = torch.randint(1, size, (batch, states - 1), generator=make)
    token_lens = torch.randint(0, states, (batch,), generator=make)
    frame_lens = torch.randint(0, frames + 1, (batch,), generator=make)
    token_lens[0], frame_lens[0] = states - 1, frames
    return logits, duration_logits, tokens, token_lens, frame_lens


Arc = tuple[int, int, bool, int]
"""Frame, tokens so far, whether a token is given out, which duration."""


def paths(
    t: int, s: int, frames: int, tokens: int, durations: tuple[int, ...], by_blank: bool = True
) -> Iterator[list[Arc]]:
    """All paths from (t, s) to the end; a blank is the last arc."""
    if (t, s) == (frames, tokens) and by_blank:
        yield []
    if t >= frames:
        return
    for k, d in enumerate(durations):
        if d > 0:
            rest = paths(t + d, s, frames, tokens, durations)
            yield from ([(t, s, False, k), *path] for path in rest)
        if s < tokens:
            rest = paths(t + d, s + 1, frames, tokens, durations, False)
            yield from ([(t, s, True, k), *path] for path in rest)


def brute_force(
    logits: Tensor, duration_logits: Tensor, tokens: Tensor, durations: tuple[int, ...], sigma: float
) -> float:
    """The loss of one utterance, (T, S + 1, V), (T, S + 1, D)."""
    by_token, by_duration = logits.log_softmax(-1) - sigma, duration_logits.log_softmax(-1)
    scores = [
        sum(
            float(by_token[t, s, int(tokens[s]) if emits else 0] + by_duration[t, s, k])
            for t, s, emits, k in path
        )
        for path in paths(0, 0, len(logits), len(tokens), durations)
    ]
    return -float(torch.tensor(scores, dtype=torch.float64).logsumexp(0)) if scores else math.inf


@settings(deadline=None, max_examples=25)
@given(seed=seeds, frames=st.integers(1, 5), states=st.integers(1, 4), durations=st.sampled_from(DURATIONS))
def test_it_sums_over_all_paths(seed: int, frames: int, states: int, durations: tuple[int, ...]) -> None:
    logits, duration_logits, *lens = draw(seed, durations, frames, states)
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 2e-5)):
        loss = tdt_loss(logits.to(dtype), duration_logits.to(dtype), *lens, durations=durations, sigma=0.1)
        for b, (s, t) in enumerate(zip(lens[1].tolist(), lens[2].tolist(), strict=True)):
            case = logits[b, :t, : s + 1], duration_logits[b, :t, : s + 1], lens[0][b, :s]
            # No frames and no tokens: nothing to say, and nothing said.
            expected = 0.0 if s == t == 0 else brute_force(*case, durations, 0.1)
            assert float(loss[b]) == pytest.approx(expected, abs=tolerance, rel=tolerance)


@pytest.mark.parametrize(("durations", "activation"), [((0, 1, 2, 3, 4), "tanh"), ((1, 2), "relu")])
def test_gradients_are_finite_differences(durations: tuple[int, ...], activation: str) -> None:
    logits, duration_logits, tokens, _, _ = draw(2, durations, size=4)
    lens = torch.tensor([2, 0, 1]), torch.tensor([4, 2, 3])
    options = {"durations": durations, "sigma": 0.05, "omega": 0.2}
    assert torch.autograd.gradcheck(
        lambda *x: tdt_loss(*x, tokens, *lens, **options),  # type: ignore[arg-type]
        (logits.requires_grad_(), duration_logits.requires_grad_()),
        fast_mode=True,
    )
    make = torch.Generator().manual_seed(3)
    shapes = ((3, 4, 6), (3, 4, 6), (4, 6), (4,), (len(durations), 6), (len(durations),))
    leaves = [torch.randn(shape, generator=make, dtype=torch.float64).requires_grad_() for shape in shapes]
    assert torch.autograd.gradcheck(
        lambda *x: joiner_tdt_loss(Joiner(*x), tokens, *lens, activation=activation, **options),  # type: ignore[arg-type]
        leaves,
        fast_mode=True,
    )


def test_fused_with_its_joiner_it_is_the_same(kernels: str) -> None:
    durations = (0, 1, 2)
    _, _, tokens, *lens = draw(4, durations, frames=20, states=7, size=9)
    make = torch.Generator().manual_seed(5)
    shapes = ((3, 20, 8), (3, 7, 8), (9, 8), (9,), (3, 8), (3,))
    leaves = [torch.randn(shape, generator=make).requires_grad_() for shape in shapes]
    first, second, weight, bias, duration_weight, duration_bias = leaves
    hidden = torch.tanh(first[:, :, None] + second[:, None])
    options = {"durations": durations, "sigma": 0.05, "omega": 0.1, "fastemit": 0.01}
    expected = tdt_loss(
        hidden @ weight.T + bias, hidden @ duration_weight.T + duration_bias, tokens, *lens, **options  # type: ignore[arg-type]
    )  # fmt: skip
    found = joiner_tdt_loss(Joiner(*leaves), tokens, *lens, **options)  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    scale = torch.tensor([1.0, -2.0, 0.5])
    for ours, theirs in zip(
        torch.autograd.grad((found * scale).sum(), leaves),
        torch.autograd.grad((expected * scale).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("durations", DURATIONS)
def test_the_kernel_is_the_reference(durations: tuple[int, ...]) -> None:
    if not native.available():
        pytest.skip(native.reason())
    logits, duration_logits, _, _, _ = draw(7, durations, frames=30, states=9, batch=6)
    frame_lens, token_lens = torch.tensor([30, 30, 0, 1, 17, 3]), torch.tensor([8, 3, 0, 1, 5, 8])
    planes = logits[..., 1], logits[..., 0], duration_logits
    case = DurationLattice(*(x - 4 for x in planes), durations, token_lens, frame_lens)
    expected, flow = solve_durations_in_torch(case)
    scores, found = solve_durations(
        case._replace(**{name: getattr(case, name).float() for name in ("symbol", "blank", "duration")})
    )
    torch.testing.assert_close(scores.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.symbol.double(), flow.symbol, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.blank.double(), flow.blank, rtol=1e-4, atol=1e-6)
    # What flows is one path: all tokens, and as many frames as there are.
    possible = scores > -math.inf
    length = torch.tensor(durations, dtype=torch.float64)
    went = ((flow.symbol + flow.blank) * length).sum((1, 2, 3))
    torch.testing.assert_close(flow.symbol.sum((1, 2, 3))[possible], token_lens[possible].double())
    torch.testing.assert_close(went[possible], frame_lens[possible].double())
    assert not flow.symbol[~possible].any() and not found.blank[~possible].any()


def test_without_paths_it_is_infinite_and_leaves_the_others_alone(kernels: str) -> None:
    """Durations of 1 and more give a frame one token at most, and the last frame a blank."""
    logits, duration_logits, tokens, _, _ = draw(13, (1, 2))
    logits[2, 1, 1, 3] = math.nan
    lens = torch.tensor([3, 3, 3]), torch.tensor([4, 3, 4])
    leaves = logits.float().requires_grad_(), duration_logits.float().requires_grad_()
    for omega in (0.0, 0.5):
        loss = tdt_loss(*leaves, tokens, *lens, durations=(1, 2), omega=omega)
        assert loss.isinf().tolist() == [False, True, False]
        assert loss.isnan().tolist() == [False, False, True]
        for g in torch.autograd.grad(loss[:2].sum(), leaves):
            assert g[:2].isfinite().all() and g[0].any() and not g[1].any()


@pytest.mark.parametrize("case", range(3))
def test_nemo_computes_the_same(kernels: str, case: int) -> None:
    """Its blank is the last token, and its durations stand behind the tokens (golden/README.md)."""
    golden = load_file(Path(__file__).parent / "golden" / "tdt.safetensors")
    given, durations = golden[f"{case}.logits"].requires_grad_(), golden[f"{case}.durations"].tolist()
    logits, duration_logits = given[..., : -len(durations)].roll(1, -1), given[..., -len(durations) :]
    lens = golden["tokens"] + 1, golden["token_lens"], golden["frame_lens"]
    loss = tdt_loss(logits, duration_logits, *lens, durations=tuple(durations), sigma=float(golden["sigma"]))
    torch.testing.assert_close(loss.detach(), golden[f"{case}.loss"], rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad(loss.sum(), given)
    torch.testing.assert_close(gradient, golden[f"{case}.gradient"], rtol=1e-4, atol=1e-5)


def test_omega_mixes_in_the_loss_without_durations() -> None:
    logits, duration_logits, tokens, *_ = draw(17, (0, 1, 2))
    lens = tokens, torch.tensor([3, 2, 1]), torch.tensor([4, 4, 3])
    with_durations = tdt_loss(logits, duration_logits, *lens, durations=(0, 1, 2))
    mixed = tdt_loss(logits, duration_logits, *lens, durations=(0, 1, 2), omega=0.3)
    torch.testing.assert_close(mixed, 0.7 * with_durations + 0.3 * full_loss(logits, *lens))


def test_durations_that_cannot_be() -> None:
    logits, duration_logits, *lens = draw(1, (0, 1))
    for durations in ((0, 1, 2), (0,), (-1, 1)):
        with pytest.raises(ValueError, match="durations"):
            tdt_loss(logits, duration_logits[..., : len(durations)], *lens, durations=durations)
