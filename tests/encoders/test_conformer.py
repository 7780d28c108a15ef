from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from asr import config
from asr.encoders import FULL_CONTEXT, Chunk, Conformer, ConformerConfig, EncoderConfig, build
from asr.errors import ConfigError
from asr.heads import Transducer, TransducerConfig
from asr.heads.predictors import LSTMConfig
from asr.model import ModelConfig
from asr.state import state_bytes
from models import ENCODERS

SMALL = ENCODERS["conformer"]
assert isinstance(SMALL, ConformerConfig)


def millions(module: nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6


@pytest.mark.parametrize(
    ("size", "own", "units", "published"),
    [("s", 8.71, 320, 10.3), ("m", 27.33, 640, 30.7), ("l", 115.11, 640, 118.8)],
)
def test_parameter_counts_are_those_of_the_paper(size: Any, own: float, units: int, published: float) -> None:
    """Table 1 of Gulati et al. 2020 counts one LSTM layer of so many units and a transducer's output of about 1000
    word pieces. It does not state the embedding's width and the joint network: 256 and the LSTM's width are assumed."""
    dim = ConformerConfig(size=size).dim
    given = TransducerConfig(predictor=LSTMConfig(dim=units, embedding=256), joiner_dim=units)
    with torch.device("meta"):
        encoder, head = Conformer(ConformerConfig(size=size)), Transducer(given, dim, 1024)
    trained_only = millions(head.simple_encoder) + millions(head.simple_predictor)
    assert millions(encoder) == pytest.approx(own, abs=0.01)
    assert millions(encoder) + millions(head) - trained_only == pytest.approx(published, abs=0.45)


def test_any_field_may_be_given_another_value() -> None:
    given = config.from_dict(ModelConfig, {"encoder": {"kind": "conformer", "size": "s", "layers": 3}})
    assert isinstance(given.encoder, ConformerConfig)
    assert (given.encoder.dim, given.encoder.layers, given.encoder.feed_forward_dim) == (144, 3, 576)
    assert config.from_dict(ConformerConfig, config.to_dict(given.encoder)) == given.encoder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 3}, r"encoder\.heads: 3 do not divide encoder\.dim, 256"),
        ({"chunks": (Chunk(0, 4),)}, r"encoder\.chunks"),
        ({"chunks": (Chunk(4, -4),)}, r"encoder\.chunks"),
        ({"positions": "legacy"}, r"encoder\.positions: legacy ones.*leave encoder\.chunks empty"),
    ],
)
def test_what_cannot_be(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ConformerConfig(**change)


VARIANTS: dict[str, EncoderConfig] = {
    "nemo": replace(SMALL, norm="batch", convolution="causal", subsampling_padding="causal", bias=False),
    "espnet": replace(
        SMALL, subsampling_padding="valid", norm="batch", norm_out=True, scale_input=True, norm_epsilon=1e-12
    ),
    "plain": replace(SMALL, positions="none", activation="relu"),
    "absolute": replace(
        SMALL, positions="absolute", macaron=False, subsampling=6, subsampling_padding="valid"
    ),
}


@torch.inference_mode()
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("chunk", SMALL.chunks, ids=str)
def test_chunks_give_what_the_masked_whole_gives(variant: str, chunk: Chunk) -> None:
    """The forms of other projects' checkpoints; our own is in test_streaming_equals_offline."""
    torch.manual_seed(0)
    encoder = build(VARIANTS[variant], 80).double().eval()
    x, lens = torch.randn(3, 150, 80, dtype=torch.float64), torch.tensor([150, 131, 9])
    whole, whole_lens = encoder(x, lens, chunk)
    state: Any = encoder.init_state(3, chunk)
    size, bytes_held = state_bytes(state), state_bytes(encoder.init_state(3, chunk))
    outputs, total, at = [], torch.zeros_like(lens), 0
    while at < 150 + encoder.lookahead:
        frames = chunk.frames * encoder.subsampling + (encoder.lookahead if at == 0 else 0)
        piece = x[:, at : at + frames]
        piece = nn.functional.pad(piece, (0, 0, 0, frames - piece.shape[1]))
        y, y_lens, state = encoder.step(piece, (lens - at).clamp(0, frames), state, chunk)
        assert state_bytes(state) == size == bytes_held
        outputs.append(y)
        total, at = total + y_lens, at + frames
    assert total.tolist() == whole_lens.tolist()
    for b, n in enumerate(total.tolist()):
        torch.testing.assert_close(torch.cat(outputs, 1)[b, :n], whole[b, :n], atol=1e-9, rtol=0)


def test_everything_gets_a_gradient() -> None:
    """With every chunk that training may draw, padding included; and none of it reaches into the padding."""
    torch.manual_seed(0)
    encoder = build(SMALL, 80).train()
    for chunk in encoder.chunk_sizes:
        encoder.zero_grad()
        x = torch.randn(3, 150, 80, requires_grad=True)
        lens = torch.tensor([150, 100, 31])
        y, y_lens = encoder(x, lens, chunk)
        real = torch.arange(y.shape[1]) < y_lens[:, None]
        (y * torch.randn_like(y))[real].sum().backward()
        for name, parameter in encoder.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            if not (name.endswith("bias") and "project_in" in name):  # a key's bias moves all scores alike
                assert parameter.grad.abs().sum() > 0, name
        assert x.grad is not None
        assert all(not x.grad[b, n:].any() and x.grad[b, :n].any() for b, n in enumerate(lens.tolist()))


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
    full, _ = encoder(x, lens, FULL_CONTEXT)
    assert (full != after).any(-1).all()
