"""The joiner fused with a full lattice: the loss of its logits, without its logits. FastEmit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from asr.losses.solver import arcs_loss, lattice_solver
from asr.losses.transducer import (
    Joiner,
    full_loss,
    joiner_full_loss,
    joiner_pruned_loss,
    joiner_tdt_loss,
    pruned_loss,
)


def draw(
    frames: int, states: int, size: int, width: int = 8, batch: int = 3
) -> tuple[list[Tensor], list[Tensor]]:
    make = torch.Generator().manual_seed(1)
    shapes = ((batch, frames, width), (batch, states, width), (size, width), (size,))
    leaves = [torch.randn(shape, generator=make).requires_grad_() for shape in shapes]
    tokens = torch.randint(1, size, (batch, states - 1), generator=make)
    token_lens = torch.randint(0, states, (batch,), generator=make)
    frame_lens = torch.randint(1, frames + 1, (batch,), generator=make)
    token_lens[0], frame_lens[0] = states - 1, frames
    return leaves, [tokens, token_lens, frame_lens]


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("topology", ["regular", "modified"])
def test_it_is_the_loss_of_its_logits(kernels: str, activation: Any, topology: Any) -> None:
    leaves, lens = draw(frames=40, states=30, size=11)  # more states than one block holds
    scale = torch.tensor([1.0, -2.0, 0.5])
    x = leaves[0][:, :, None] + leaves[1][:, None]
    hidden = x.relu() if activation == "relu" else x.tanh()
    options: dict[str, Any] = {"topology": topology, "fastemit": 0.02}
    expected = full_loss(hidden @ leaves[2].T + leaves[3], *lens, **options)
    found = joiner_full_loss(Joiner(*leaves), *lens, activation=activation, **options)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    possible = expected.isfinite()
    assert possible[0]
    gradients = [torch.autograd.grad((loss * scale)[possible].sum(), leaves) for loss in (found, expected)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5)


def test_gradients_are_finite_differences() -> None:
    leaves, lens = draw(frames=3, states=3, size=4, width=5)
    double = [x.detach().double().requires_grad_() for x in leaves]
    assert torch.autograd.gradcheck(lambda *x: joiner_full_loss(Joiner(*x), *lens), double)
    assert torch.autograd.gradcheck(lambda *x: joiner_full_loss(Joiner(*x), *lens, activation="relu"), double)


class Largest(TorchDispatchMode):
    """The largest tensor that any operation makes."""

    numel = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple | list) else (result,):
            if isinstance(x, Tensor):
                self.numel = max(self.numel, x.untyped_storage().nbytes() // x.element_size())
        return result


@pytest.mark.parametrize("tdt", [False, True])
def test_no_tensor_holds_all_logits_or_hidden_values(kernels: str, tdt: bool) -> None:
    leaves, lens = draw(frames=60, states=40, size=300, width=200)
    lens[1:] = torch.tensor([39] * 3), torch.tensor([60] * 3)
    joiner = Joiner(*leaves)
    with Largest() as largest:
        if tdt:
            joiner = joiner._replace(duration_weight=torch.randn(2, 200), duration_bias=torch.zeros(2))
            loss = joiner_tdt_loss(joiner, *lens, durations=(0, 1), omega=0.1)
        else:
            loss = joiner_full_loss(joiner, *lens)
        loss.sum().backward()
    every = 3 * 60 * 40
    assert all(x.grad is not None and x.grad.any() for x in leaves)
    assert largest.numel <= max(1024 * 300, every * 4)
    assert largest.numel < every * 200 / 4


def test_fastemit_counts_the_gradients_of_tokens_more(kernels: str) -> None:
    """Yu et al. 2021, equation 9, on the arcs, and so on whatever is before them; the loss stays what it is."""
    leaves, lens = draw(frames=6, states=4, size=5)
    arcs = [(-2 * torch.rand(3, 6, 4)).requires_grad_() for _ in range(2)]
    plain = arcs_loss(*arcs, None, lattice_solver(None, *lens[1:], "regular"))
    fast = arcs_loss(*arcs, None, lattice_solver(None, *lens[1:], "regular", fastemit=0.3))
    assert torch.equal(plain, fast)
    by_symbol, by_blank = torch.autograd.grad(plain.sum(), arcs)
    found = torch.autograd.grad(fast.sum(), arcs)
    torch.testing.assert_close(found[0], 1.3 * by_symbol)
    torch.testing.assert_close(found[1], by_blank)

    ranges = torch.arange(4).expand(3, 6, -1)
    logits = (leaves[0][:, :, None, :5] + leaves[1][:, None, :, :5]).detach().requires_grad_()
    for loss in (
        full_loss(logits, *lens, fastemit=0.3),
        pruned_loss(logits, lens[0], ranges, *lens[1:], fastemit=0.3),
    ):
        scores = logits.log_softmax(-1)
        token = torch.nn.functional.pad(lens[0], (0, 1))[:, None, :, None].expand(-1, 6, -1, 1)
        parts = scores.gather(3, token)[..., 0], scores[..., 0]
        again = arcs_loss(*parts, None, lattice_solver(None, *lens[1:], "regular", fastemit=0.3))
        torch.testing.assert_close(*(torch.autograd.grad(x.sum(), logits)[0] for x in (loss, again)))
    pruned = joiner_pruned_loss(Joiner(*leaves), lens[0], ranges, *lens[1:], fastemit=0.3)
    full = joiner_full_loss(Joiner(*leaves), *lens, fastemit=0.3)
    for ours, theirs in zip(*(torch.autograd.grad(x.sum(), leaves) for x in (pruned, full)), strict=True):
        torch.testing.assert_close(ours, theirs)
