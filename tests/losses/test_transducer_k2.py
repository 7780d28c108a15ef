"""Transducer losses against the numbers of k2 (golden/README.md), with the C kernels and without."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

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

GOLDEN = load_file(Path(__file__).parent / "golden" / "k2.safetensors")
SCALES = {
    "simple": (0.0, 0.0),
    "smoothed_lm0.1_am0.15": (0.1, 0.15),
    "smoothed_lm0.25_am0.0": (0.25, 0.0),
}


def golden(topology: str, name: str) -> Tensor:
    return GOLDEN[f"{topology}.{name}"]


def assert_near(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours.detach(), expected, atol=2e-5, rtol=1e-6)


@pytest.mark.parametrize("topology", get_args(Topology))
def test_k2_computes_the_same(kernels: str, topology: Topology) -> None:
    am, lm, first, second = (
        GOLDEN[x].clone().requires_grad_() for x in ("am", "lm", "encoder_projected", "predictor_projected")
    )
    weight = GOLDEN["joiner_weight"]
    tokens, token_lens, frame_lens = (GOLDEN[x] for x in ("symbols", "symbol_lens", "frames"))
    for name, (lm_scale, am_scale) in SCALES.items():
        loss, occupation = simple_loss(
            am, lm, tokens, token_lens, frame_lens, lm_scale=lm_scale, am_scale=am_scale, topology=topology
        )
        assert_near(loss, golden(topology, f"{name}.loss"))
        gradients = torch.autograd.grad(loss.sum(), (am, lm))
        assert_near(gradients[0], golden(topology, f"{name}.am_grad"))
        assert_near(gradients[1], golden(topology, f"{name}.lm_grad"))
    symbol = golden(topology, "smoothed_lm0.25_am0.0.px_occupation")[:, :, : am.shape[1]]
    assert_near(occupation.symbol[:, :, :-1].mT, symbol)
    assert_near(occupation.blank.mT, golden(topology, "smoothed_lm0.25_am0.0.py_occupation"))

    ranges = pruning_ranges(occupation, token_lens, frame_lens, width=4, topology=topology)
    assert torch.equal(ranges, golden(topology, "ranges"))
    joined = torch.add(*gather_pruned(first, second, ranges)).tanh() @ weight.T
    for loss in (
        pruned_loss(joined, tokens, ranges, token_lens, frame_lens, topology=topology),
        joiner_pruned_loss(
            Joiner(first, second, weight), tokens, ranges, token_lens, frame_lens, topology=topology
        ),
    ):
        assert_near(loss, golden(topology, "pruned.loss"))
        gradients = torch.autograd.grad(loss.sum(), (first, second))
        assert_near(gradients[0], golden(topology, "pruned.encoder_grad"))
        assert_near(gradients[1], golden(topology, "pruned.predictor_grad"))

    logits = ((first[:, :, None] + second[:, None]).tanh() @ weight.T).detach().requires_grad_()
    loss = full_loss(logits, tokens, token_lens, frame_lens, topology=topology)
    assert_near(loss, golden(topology, "full.loss"))
    assert_near(torch.autograd.grad(loss.sum(), logits)[0], golden(topology, "full.logits_grad"))
