"""What Branchformer and E-Branchformer share, in the forms of other projects' checkpoints, too."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import asr
from asr import config as configuration
from asr.encoders import FULL_CONTEXT, BranchformerConfig, Chunk, EBranchformerConfig, EncoderConfig, build
from asr.encoders.attention import Context
from asr.errors import ConfigError
from asr.model import Model, ModelConfig
from asr.state import state_bytes
from models import ENCODERS, small_model
from test_streaming_equals_offline import speech, streamed

LEARNED, ENHANCED = ENCODERS["branchformer"], ENCODERS["e_branchformer"]
assert isinstance(LEARNED, BranchformerConfig) and isinstance(ENHANCED, EBranchformerConfig)
ESPNET: dict[str, Any] = {"subsampling_padding": "valid", "norm_out": True, "scale_input": True}
VARIANTS: dict[str, EncoderConfig] = {
    "learned": replace(LEARNED, gate_linear=True, gate_activation="swish", **ESPNET),
    "concatenation": replace(LEARNED, merge="concatenation"),
    "fixed": replace(LEARNED, merge="fixed", layers=3, cgmlp_weights=(0.3, 0.0, 1.0)),
    "causal": replace(LEARNED, convolution="causal", positions="none"),
    "enhanced": ENHANCED,
    "causal, single": replace(ENHANCED, convolution="causal", feed_forward="single"),
    "8x, none": replace(ENHANCED, subsampling=8, feed_forward="none", **ESPNET),
}


def encoder(config: EncoderConfig, *, seed: int = 0) -> Any:
    """With gates that are not open: as they begin, their convolutions say almost nothing."""
    torch.manual_seed(seed)
    made = build(config, 80).double().eval()
    for name, parameter in made.named_parameters():
        if ".gate." in name:
            nn.init.normal_(parameter, std=0.5)
    return made


def forms(variant: str) -> list[EncoderConfig]:
    return [VARIANTS[variant], replace(VARIANTS[variant], fast=True)]


@torch.inference_mode()
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("chunk", [Chunk(4, 8), Chunk(8, 0), Chunk(3, 11)], ids=str)
def test_chunks_give_what_the_masked_whole_gives(variant: str, chunk: Chunk) -> None:
    x, lens = torch.randn(3, 150, 80, dtype=torch.float64), torch.tensor([150, 131, 17])
    for config in forms(variant):
        made = encoder(config)
        whole, whole_lens = made(x, lens, chunk)
        y, y_lens = streamed(made, x, lens, chunk)
        assert y_lens.tolist() == whole_lens.tolist()
        for b, n in enumerate(y_lens.tolist()):
            torch.testing.assert_close(y[b, :n], whole[b, :n], atol=1e-9, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_state_keeps_its_size(variant: str) -> None:
    chunk = Chunk(4, 8)
    full, fast = map(encoder, forms(variant))
    for made in (full, fast):
        state = made.init_state(2, chunk)
        size = made.subsampling * chunk.frames + made.lookahead
        _, _, after = made.step(
            torch.randn(2, size, 80, dtype=torch.float64), torch.tensor([size] * 2), state, chunk
        )
        assert state_bytes(after) == state_bytes(state)
    assert state_bytes(fast.init_state(1, chunk)) < state_bytes(full.init_state(1, chunk))


@pytest.mark.parametrize("variant", VARIANTS)
def test_everything_gets_a_gradient(variant: str) -> None:
    """With every chunk that training may draw, padding included; and none of it reaches into the padding."""
    made = encoder(replace(VARIANTS[variant], branch_dropout=0.2)).train()
    for chunk in made.chunk_sizes:
        made.zero_grad()
        x = torch.randn(8, 150, 80, dtype=torch.float64, requires_grad=True)
        lens = torch.tensor([150, 100, 31, 40, 60, 120, 150, 99])
        y, y_lens = made(x, lens, chunk)
        real = torch.arange(y.shape[1]) < y_lens[:, None]
        (y * torch.randn_like(y))[real].sum().backward()
        for name, parameter in made.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            if not (name.endswith("bias") and "project_in" in name):  # a key's bias moves all scores alike
                assert parameter.grad.abs().sum() > 0, name
        assert x.grad is not None
        assert all(not x.grad[b, n:].any() and x.grad[b, :n].any() for b, n in enumerate(lens.tolist()))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("chunk", [Chunk(4, 8), FULL_CONTEXT], ids=str)
def test_fast_is_what_branch_dropout_trained(variant: str, chunk: Chunk) -> None:
    """All utterances of all layers without attention, which leaves its parameters nothing to learn."""
    config = replace(VARIANTS[variant], dropout=0.0, attention_dropout=0.0, branch_dropout=0.5)
    full = encoder(config).train()
    fast = encoder(replace(config, fast=True))
    weights = full.state_dict()
    fast.load_state_dict({name: weights[name] for name in fast.state_dict()})
    gone = weights.keys() - fast.state_dict().keys()
    assert gone and all(".branches.attention." in name for name in gone)
    for block in full.blocks:
        block.branches.drop = math.ceil(block.branches.drop)  # layers of one branch drop none
    x, lens = torch.randn(2, 150, 80, dtype=torch.float64), torch.tensor([150, 131])
    y, _ = full(x, lens, chunk)
    expected, _ = fast(x, lens, chunk)
    torch.testing.assert_close(y, expected, atol=1e-12, rtol=0)
    y.sum().backward()
    assert all(not p.grad.any() for n, p in full.named_parameters() if n in gone)


def test_branch_dropout_is_drawn_for_each_utterance() -> None:
    torch.manual_seed(0)
    branches = encoder(replace(LEARNED, branch_dropout=0.25)).blocks[0].branches
    x = torch.randn(400, 4, 16, dtype=torch.float64)
    lens = torch.tensor([4] * 400)
    context = Context.of(x, lens, torch.zeros_like(lens), FULL_CONTEXT, encoder(LEARNED).positions)
    state = branches.init_state(400, 0)
    _, _, nobody, _ = branches(x, context, state)
    assert not nobody.any()
    attended, local, dropped, _ = branches.train()(x, context, state)
    assert 0.15 < dropped.double().mean() < 0.35
    assert torch.equal(dropped[:, 0, 0], ~attended.flatten(1).any(1))
    assert local.flatten(1).any(1).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 3}, r"encoder\.heads: 3 do not divide encoder\.dim, 256"),
        ({"cgmlp_dim": 33}, r"encoder\.cgmlp_dim: 33 is odd"),
        ({"branch_dropout": 1.0}, r"encoder\.branch_dropout: 1\.0 is not a share"),
        ({"chunks": (Chunk(0, 4),)}, r"encoder\.chunks"),
        ({"chunks": (Chunk(4, -4),)}, r"encoder\.chunks"),
    ],
)
@pytest.mark.parametrize("kind", [BranchformerConfig, EBranchformerConfig])
def test_what_cannot_be(kind: Any, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(**change)


# ---- the bundle


@pytest.mark.parametrize("kind", ["branchformer", "e_branchformer"])
def test_a_bundle_can_be_loaded_without_attention(kind: str, tmp_path: Path) -> None:
    given = small_model(kind)
    model = Model(replace(given.config, encoder=replace(ENCODERS[kind], branch_dropout=0.3)), given.tokenizer)
    model.load_state_dict(given.state_dict())
    full = asr.load(model.save(tmp_path / "full"))
    fast = asr.load(tmp_path / "full", fast=True)
    count = [sum(p.numel() for p in m.parameters()) for m in (full, fast)]
    assert count[1] < count[0]
    samples = speech(3, 2.0)
    for latency in (None, fast.latencies[0]):
        assert fast.transcribe(samples, latency_ms=latency).words
        assert fast.transcribe(samples, latency_ms=latency) != full.transcribe(samples, latency_ms=latency)
    again = asr.load(fast.save(tmp_path / "fast"))
    assert again.config == fast.config and again.state_dict().keys() == fast.state_dict().keys()
    assert again.transcribe(samples) == fast.transcribe(samples)


@pytest.mark.parametrize("kind", ["branchformer", "conformer"])
def test_a_model_that_was_not_trained_for_it_is_not_made_fast(kind: str, tmp_path: Path) -> None:
    path = small_model(kind).save(tmp_path / "model")
    with pytest.raises(ConfigError, match="config.yaml: fast: the model cannot do without attention"):
        asr.load(path, fast=True)


def test_one_line_of_yaml_names_a_size() -> None:
    config = configuration.from_dict(ModelConfig, {"encoder": {"kind": "e_branchformer", "size": "l"}})
    assert isinstance(config.encoder, EBranchformerConfig) and config.encoder.layers == 17
    assert configuration.from_dict(ModelConfig, configuration.to_dict(config)) == config
