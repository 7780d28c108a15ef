from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from asr.encoders import FULL_CONTEXT, EBranchformer, EBranchformerConfig
from asr.encoders.attention import Context
from asr.encoders.e_branchformer import Merge
from encoders.test_branchformer import attention_decoder, parameters
from models import ENCODERS

SMALL = ENCODERS["e_branchformer"]
assert isinstance(SMALL, EBranchformerConfig)


@pytest.mark.parametrize(("size", "own", "published"), [("m", 25_148_928, 38.47), ("l", 116_007_936, 148.92)])
def test_parameter_counts_are_those_published(size: Any, own: int, published: float) -> None:
    """38.5 M in ESPnet's README of LibriSpeech-100, 148.9 M in the paper; 5000 word pieces in both."""
    with torch.device("meta"):
        espnet = EBranchformer(EBranchformerConfig(size=size, subsampling_padding="valid", norm_out=True))
        ours = EBranchformer(EBranchformerConfig(size=size))
    assert parameters(espnet) == own
    assert round((own + attention_decoder(espnet.dim, 5000)) / 1e6, 2) == published
    assert parameters(ours) == own + espnet.dim**2 - 2 * espnet.dim  # a wider subsampling, no norm behind all


@torch.inference_mode()
def test_the_merge_is_the_papers() -> None:
    """C + DwConv(C), projected, for C both branches beside each other."""
    torch.manual_seed(0)
    merge = Merge(SMALL).double()
    attended, local = torch.randn(2, 2, 20, SMALL.dim, dtype=torch.float64)
    context = Context.of(attended, torch.tensor([20, 20]), torch.zeros(2, dtype=torch.int64), FULL_CONTEXT)
    y, _ = merge(attended, local, context, merge.init_state(2))
    both = torch.cat([attended, local], -1).transpose(1, 2)
    convolved = F.conv1d(
        both, merge.depthwise.weight, merge.depthwise.bias, padding="same", groups=2 * SMALL.dim
    )
    torch.testing.assert_close(y, merge.project((both + convolved).transpose(1, 2)), atol=1e-12, rtol=0)
