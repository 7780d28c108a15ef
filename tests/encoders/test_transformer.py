from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from asr import config
from asr.encoders import Chunk, Transformer, TransformerConfig, build
from asr.encoders.attention import Attention
from asr.errors import ConfigError
from asr.heads import Transducer, TransducerConfig
from asr.heads.predictors import LabelEncoderConfig
from asr.model import ModelConfig
from models import ENCODERS

SMALL = ENCODERS["transformer"]
assert isinstance(SMALL, TransformerConfig)


def count(*parts: nn.Module) -> int:
    return sum(p.numel() for part in parts for p in part.parameters())


@pytest.mark.parametrize(("size", "millions"), [("s", 16.94), ("m", 28.33), ("l", 124.23)])
def test_parameter_counts(size: Any, millions: float) -> None:
    with torch.device("meta"):
        assert count(Transformer(TransformerConfig(size=size))) / 1e6 == pytest.approx(millions, abs=0.01)


def test_the_published_transducer() -> None:
    """Table 1 and section 3 of Zhang et al. 2020: 18 layers for audio and 2 for labels, 8 heads of 64, dense layers of
    2048 and 1024, 139 M. The joint network is not stated: here it is one layer of 512, of labels that are letters."""
    c = TransformerConfig(size="l")
    assert (c.layers, c.heads, c.head_dim, c.feed_forward_dim, c.dim) == (18, 8, 64, 2048, 1024)
    given = TransducerConfig(predictor=LabelEncoderConfig(dim=1024), joiner_dim=512)
    with torch.device("meta"):
        encoder, head = Transformer(c), Transducer(given, c.dim, 32)
    trained_only = count(head.simple_encoder, head.simple_predictor)
    assert count(*head.predictor.blocks) / 1e6 == pytest.approx(13.65, abs=0.01)
    assert (count(encoder, head) - trained_only) / 1e6 == pytest.approx(139, abs=0.1)


def test_one_line_of_yaml() -> None:
    given = config.from_dict(ModelConfig, {"encoder": {"kind": "transformer", "size": "s"}})
    assert isinstance(given.encoder, TransformerConfig)
    assert (given.encoder.dim, given.encoder.layers, given.encoder.heads) == (256, 12, 4)
    assert config.from_dict(TransformerConfig, config.to_dict(given.encoder)) == given.encoder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 33}, r"encoder\.dim: 33 is odd"),
        ({"chunks": (Chunk(0, 4),)}, r"encoder\.chunks"),
        ({"chunks": (Chunk(4, -4),)}, r"encoder\.chunks"),
    ],
)
def test_what_cannot_be(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TransformerConfig(**change)


def test_heads_may_be_narrower_than_the_model() -> None:
    attention = Attention(16, 2, head_dim=4)
    assert attention.init_state(3, 5).keys.shape == (3, 5, 8)
    with pytest.raises(ValueError, match="3 heads do not divide 16"):
        Attention(16, 3)


@torch.inference_mode()
def test_each_layer_sees_its_left_context_and_its_chunk() -> None:
    """What a frame depends on: with two layers, two left contexts before its chunk; to the right, the chunk's end."""
    torch.manual_seed(0)
    encoder, chunk = build(SMALL, 80).eval(), Chunk(4, 8)
    x, lens = torch.randn(1, 4 * 64, 80), torch.tensor([4 * 64])
    before, _ = encoder(x, lens, chunk)
    x[:, 4 * 12 : 4 * 16] += 1.0  # output frames 12 to 15
    after, _ = encoder(x, lens, chunk)
    changed = (before != after).any(-1)[0].nonzero()[:, 0].tolist()
    # The front lets one frame on see it, whose chunk is 16 to 19; two layers later its effect is 16 frames on.
    assert changed == list(range(12, 36))


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
