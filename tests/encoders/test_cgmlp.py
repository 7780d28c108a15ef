from __future__ import annotations

import torch
from torch.nn import functional as F

from asr.encoders import FULL_CONTEXT
from asr.encoders.attention import Context
from asr.encoders.cgmlp import CgMLP


def context(x: torch.Tensor) -> Context:
    lens = torch.tensor([x.shape[1]] * len(x))
    return Context.of(x, lens, torch.zeros_like(lens), FULL_CONTEXT)


@torch.inference_mode()
def test_it_is_the_papers() -> None:
    torch.manual_seed(0)
    layer = CgMLP(6, 16, 5, linear=True, activation="swish").double()
    for parameter in layer.gate.parameters():
        parameter.normal_()
    x = torch.randn(2, 20, 6, dtype=torch.float64)
    y, _ = layer(x, context(x), layer.init_state(2))
    wide = F.gelu(x @ layer.project_in.weight.T + layer.project_in.bias)
    kept, gate = wide[..., :8], layer.gate.norm(wide[..., 8:])
    depthwise = layer.gate.depthwise
    gate = F.conv1d(gate.transpose(1, 2), depthwise.weight, depthwise.bias, padding=2, groups=8).transpose(
        1, 2
    )
    assert layer.gate.project is not None
    gate = F.silu(layer.gate.project(gate))
    torch.testing.assert_close(y, layer.project_out(kept * gate), atol=1e-12, rtol=0)


@torch.inference_mode()
def test_the_gate_begins_open() -> None:
    torch.manual_seed(0)
    layer = CgMLP(6, 16, 5)
    x = torch.randn(2, 20, 6)
    y, _ = layer(x, context(x), layer.init_state(2))
    ungated = layer.project_out(F.gelu(layer.project_in(x))[..., :8])
    torch.testing.assert_close(y, ungated, atol=1e-4, rtol=0)
