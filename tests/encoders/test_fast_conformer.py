"""FastConformer: published sizes, look-aheads of one model, and caches that do not grow."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from asr import config
from asr.encoders import FULL_CONTEXT, Chunk, FastConformerConfig, build
from asr.model import Model, ModelConfig
from asr.state import map_tree, state_bytes
from asr.tokenizer import Tokenizer
from models import ENCODERS, TEXTS

SMALL = ENCODERS["fast_conformer"]
assert isinstance(SMALL, FastConformerConfig)
PUBLISHED = replace(SMALL, chunks=FastConformerConfig().chunks)
BY_LOOK_AHEAD = {0: Chunk(1, 70), 80: Chunk(2, 70), 480: Chunk(7, 70), 1040: Chunk(14, 70)}


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def on_meta(given: FastConformerConfig) -> Any:
    with torch.device("meta"):
        return build(given, 80)


def with_transducer(given: FastConformerConfig, *, units: int = 640, layers: int = 1) -> float:
    """Millions, with a transducer of 1024 word pieces as NeMo's recipes have it."""
    with torch.device("meta"):
        prediction = [nn.Embedding(1025, units), nn.LSTM(units, units, layers)]
        joint = [nn.Linear(given.dim, units), nn.Linear(units, units), nn.Linear(units, 1025)]
        return (count(on_meta(given)) + count(nn.ModuleList([*prediction, *joint]))) / 1e6


def test_parameter_counts_are_nemos() -> None:
    """NeMo 3.0.0 counts the encoder of L, whose subsampling is symmetric there; its recipes state the whole models."""
    large = FastConformerConfig()
    offline = replace(large, subsampling_padding="same", convolution="chunk", norm="batch")
    assert count(on_meta(offline)) == 108_762_112
    assert count(on_meta(large)) == 108_762_112 + 256 * 512  # one more column to project
    assert with_transducer(large) + 0.5 == pytest.approx(115, abs=0.5)  # with the streaming model's CTC head
    assert with_transducer(FastConformerConfig(size="s"), units=320) == pytest.approx(14, abs=0.5)
    assert with_transducer(FastConformerConfig(size="m")) == pytest.approx(32, abs=0.7)
    assert with_transducer(FastConformerConfig(size="xl"), layers=2) == pytest.approx(616, abs=1)


def test_one_line_of_yaml() -> None:
    given = config.from_dict(ModelConfig, {"encoder": {"kind": "fast_conformer", "size": "s", "layers": 3}})
    assert isinstance(given.encoder, FastConformerConfig)
    assert (given.encoder.dim, given.encoder.layers, given.encoder.kernel) == (176, 3, 9)
    assert config.from_dict(FastConformerConfig, config.to_dict(given.encoder)) == given.encoder


def test_its_latencies_are_the_published_look_aheads_and_a_frame() -> None:
    torch.manual_seed(0)
    model = Model(ModelConfig(encoder=PUBLISHED), Tokenizer.train(TEXTS, kind="characters"))
    assert model.frame_seconds == 0.08
    assert model.latencies == tuple(80 + ahead for ahead in BY_LOOK_AHEAD)
    for ahead, chunk in BY_LOOK_AHEAD.items():
        assert (chunk.frames - 1) * 80 == ahead
        assert model.chunk_for(80 + ahead) == chunk
        assert model.samples_next(chunk) == chunk.frames * 1280
        assert model.samples_first(chunk) == chunk.frames * 1280 - 7 * 160


@torch.inference_mode()
@pytest.mark.parametrize("chunk", BY_LOOK_AHEAD.values(), ids=str)
def test_steps_are_the_masked_whole_and_state_never_grows(chunk: Chunk) -> None:
    torch.manual_seed(0)
    encoder = build(PUBLISHED, 80).double().eval()
    frames = 8 * 14 * 3 - 7
    x, lens = torch.randn(2, frames, 80, dtype=torch.float64), torch.tensor([frames, frames - 21])
    whole, whole_lens = encoder(x, lens, chunk)
    state: Any = encoder.init_state(2, chunk)
    shapes: list[Any] = []
    map_tree(lambda leaf: shapes.append(leaf.shape) or leaf, state)
    held, outputs, at = state_bytes(state), [], 0
    while at < frames:
        size = 8 * chunk.frames - (7 if at == 0 else 0)
        y, _, state = encoder.step(x[:, at : at + size], (lens - at).clamp(0, size), state, chunk)
        now: list[Any] = []
        map_tree(lambda leaf, now=now: now.append(leaf.shape) or leaf, state)
        assert now == shapes and state_bytes(state) == held
        assert y.shape[1] == chunk.frames
        outputs.append(y)
        at += size
    for b, n in enumerate(whole_lens.tolist()):
        torch.testing.assert_close(torch.cat(outputs, 1)[b, :n], whole[b, :n], atol=1e-9, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("chunk", [Chunk(1, 70), Chunk(7, 70), FULL_CONTEXT], ids=str)
def test_a_frame_sees_no_further_than_its_chunks_last_frame(chunk: Chunk) -> None:
    """Frame u needs the input up to frame 8 u of it; with no look-ahead, that is all that it sees."""
    torch.manual_seed(0)
    encoder = build(PUBLISHED, 80).double().eval()
    x, lens = torch.randn(1, 8 * 21 - 7, 80, dtype=torch.float64), torch.tensor([8 * 21 - 7])
    before, _ = encoder(x, lens, chunk)
    x[:, 8 * 6 + 1 :] += 1.0  # seen by frame 7 and later ones
    after, _ = encoder(x, lens, chunk)
    seen = (before != after).any(-1)[0]
    assert seen.tolist() == [chunk.full] * 7 + [True] * 14


def test_everything_gets_a_gradient() -> None:
    torch.manual_seed(0)
    encoder = build(PUBLISHED, 80).train()
    for chunk in encoder.chunk_sizes:
        encoder.zero_grad()
        y, _ = encoder(torch.randn(2, 300, 80), torch.tensor([300, 111]), chunk)
        (y * torch.randn_like(y)).sum().backward()
        for name, parameter in encoder.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            assert parameter.grad.any() or name.endswith("project_in.bias"), name
