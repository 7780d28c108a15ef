"""Squeezeformer's own tests. That it is NeMo's is in tests/convert/test_nemo.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from asr import config
from asr.encoders import Chunk, Squeezeformer, SqueezeformerConfig, build
from asr.errors import ConfigError
from asr.model import ModelConfig
from asr.state import state_bytes
from models import CHUNKS, ENCODERS

SMALL = ENCODERS["squeezeformer"]
assert isinstance(SMALL, SqueezeformerConfig)


@pytest.mark.parametrize(
    ("size", "published"),
    [("xs", 9.0), ("s", 18.6), ("sm", 28.2), ("m", 55.6), ("ml", 125.1), ("l", 236.3)],
)
def test_parameter_counts_are_those_of_the_paper(size: Any, published: float) -> None:
    """With a CTC layer of 128 word pieces, the paper's."""
    with torch.device("meta"):
        encoder = Squeezeformer(SqueezeformerConfig(size=size))
        ctc = nn.Linear(encoder.dim, 128)
    count = sum(p.numel() for part in (encoder, ctc) for p in part.parameters())
    assert count / 1e6 == pytest.approx(published, abs=0.08)


def test_where_the_rate_changes() -> None:
    """As in the paper's own configurations: the 7th of 16 blocks is the last before, and the last one after."""
    reduced = {size: SqueezeformerConfig(size=size) for size in ("xs", "s", "l")}
    assert [(c.reduce_at, c.recover_at) for c in reduced.values()] == [(7, 15), (8, 17), (10, 21)]
    with torch.device("meta"):
        encoder = Squeezeformer(reduced["xs"])
    assert len(encoder.blocks) == 7 + 1 + 1
    assert len(encoder.layers()[7].blocks) == 8


def test_one_line_of_yaml() -> None:
    given = config.from_dict(ModelConfig, {"encoder": {"kind": "squeezeformer", "size": "m"}})
    assert isinstance(given.encoder, SqueezeformerConfig)
    assert (given.encoder.dim, given.encoder.layers, given.encoder.reduce_at) == (324, 20, 9)
    assert config.from_dict(SqueezeformerConfig, config.to_dict(given.encoder)) == given.encoder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 3}, r"encoder\.heads: 3 do not divide encoder\.dim, 256"),
        ({"chunks": (Chunk(0, 4),)}, r"encoder\.chunks: each has at least one frame"),
        ({"chunks": (Chunk(4, 8), Chunk(7, 8))}, r"encoder\.chunks: 7 frames, 8 left: both must be even"),
        ({"chunks": (Chunk(4, 9),)}, "both must be even"),
        ({"reduce_at": 15}, r"encoder\.reduce_at: 15, encoder\.recover_at: 15: of 16 layers"),
        ({"recover_at": 16}, "at least one stands before, between and after"),
    ],
)
def test_what_cannot_be(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SqueezeformerConfig(**change)


@torch.inference_mode()
@pytest.mark.parametrize("form", ["causal", "valid"])
@pytest.mark.parametrize("chunk", [Chunk(2, 6), *CHUNKS], ids=str)
def test_chunks_give_what_the_masked_whole_gives(form: str, chunk: Chunk) -> None:
    """The forms that are options; our own is in test_streaming_equals_offline."""
    torch.manual_seed(0)
    change: dict[str, dict[str, Any]] = {
        "causal": {"convolution": "causal", "norm": "batch", "subsampling_padding": "causal"},
        "valid": {"scale_input": True, "subsampling_padding": "valid"},
    }
    encoder = build(replace(SMALL, **change[form]), 80).double().eval()
    x, lens = torch.randn(3, 150, 80, dtype=torch.float64), torch.tensor([150, 131, 9])
    whole, whole_lens = encoder(x, lens, chunk)
    state: Any = encoder.init_state(3, chunk)
    size, outputs, total, at = state_bytes(state), [], torch.zeros_like(lens), 0
    while at < 150 + encoder.lookahead:
        frames = chunk.frames * 4 + (encoder.lookahead if at == 0 else 0)
        piece = x[:, at : at + frames]
        piece = nn.functional.pad(piece, (0, 0, 0, frames - piece.shape[1]))
        y, y_lens, state = encoder.step(piece, (lens - at).clamp(0, frames), state, chunk)
        assert state_bytes(state) == size
        outputs.append(y)
        total, at = total + y_lens, at + frames
    assert total.tolist() == whole_lens.tolist()
    for b, n in enumerate(total.tolist()):
        torch.testing.assert_close(torch.cat(outputs, 1)[b, :n], whole[b, :n], atol=1e-9, rtol=0)


@torch.inference_mode()
def test_a_chunk_sees_no_further_than_its_end() -> None:
    torch.manual_seed(0)
    encoder, chunk = build(SMALL, 80).eval(), Chunk(4, 8)
    x, lens = torch.randn(1, 96, 80), torch.tensor([96])
    before, _ = encoder(x, lens, chunk)
    x[:, 48:] += 1.0
    after, _ = encoder(x, lens, chunk)
    assert torch.equal(before[:, :12], after[:, :12])
    assert (before[:, 12:] != after[:, 12:]).any(-1).all()


def test_everything_gets_a_gradient() -> None:
    torch.manual_seed(0)
    encoder = build(SMALL, 80).train()
    for chunk in encoder.chunk_sizes:
        encoder.zero_grad()
        x, lens = torch.randn(3, 150, 80, requires_grad=True), torch.tensor([150, 100, 31])
        y, y_lens = encoder(x, lens, chunk)
        real = torch.arange(y.shape[1]) < y_lens[:, None]
        (y * torch.randn_like(y))[real].sum().backward()
        for name, parameter in encoder.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().sum() > 0, name
        assert x.grad is not None
        assert all(not x.grad[b, n:].any() and x.grad[b, :n].any() for b, n in enumerate(lens.tolist()))
