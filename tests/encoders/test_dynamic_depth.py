from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from asr import bundle, config
from asr.dataset import Batch
from asr.encoders import FULL_CONTEXT, Chunk, ConformerConfig, DepthConfig, TransformerConfig, build
from asr.encoders.dynamic_depth import MEMORY, DynamicDepth, GatedEncoder, gate_probabilities
from asr.errors import ConfigError
from asr.model import ModelConfig
from asr.training.losses import losses
from asr.training.pictures import gates as picture
from models import CHUNKS, ENCODERS, small_model

SMALL = ENCODERS["dynamic depth"]
PLAIN = ENCODERS["transformer"]
assert isinstance(SMALL, ConformerConfig) and isinstance(PLAIN, TransformerConfig)
CONFIGS: dict[str, ConformerConfig | TransformerConfig] = {
    "conformer": SMALL,
    "transformer": replace(PLAIN, layers=3, depth=SMALL.depth),
}


def encoder(config: Any = SMALL, *, threshold: float | None = None) -> Any:
    torch.manual_seed(0)
    made = build(config, 80).double().eval()
    if threshold is not None:
        made.depth.threshold = threshold
    return made


def speech(batch: int = 6, frames: int = 433) -> tuple[Tensor, Tensor]:
    x = torch.randn(batch, frames, 80, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x = x * torch.linspace(0.3, 3, batch, dtype=x.dtype)[:, None, None]
    return x, frames - 53 * torch.arange(batch)


def batch(tokens: int = 4) -> Batch:
    samples, lens = 0.1 * torch.randn(2, 16_000), torch.tensor([16_000, 12_000])
    said = torch.randint(3, 20, (2, tokens))
    return Batch(("a", "b"), samples, lens, said, torch.full((2,), tokens), ("", ""))


def assert_close(y: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(y, other, atol=1e-9, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("chunk", [*CHUNKS, FULL_CONTEXT], ids=str)
def test_open_gates_change_nothing_and_shut_ones_everything(kind: str, chunk: Chunk) -> None:
    x, lens = speech()
    gated, plain = encoder(CONFIGS[kind], threshold=0.0), encoder(replace(CONFIGS[kind], depth=None))
    plain.load_state_dict({n: p for n, p in gated.state_dict().items() if not n.startswith("depth.")})
    y, y_lens = gated(x, lens, chunk)
    expected, _ = plain(x, lens, chunk)
    for b, n in enumerate(y_lens.tolist()):
        assert_close(y[b, :n], expected[b, :n])
    gated.depth.threshold = 1.0
    y, _ = gated(x, lens, chunk)
    plain.blocks = nn.ModuleList()
    expected, _ = plain(x, lens, chunk)
    for b, n in enumerate(y_lens.tolist()):
        assert_close(y[b, :n], expected[b, :n])


@torch.inference_mode()
@pytest.mark.parametrize("kind", CONFIGS)
def test_only_those_utterances_run_a_block_whose_gate_is_open(kind: str) -> None:
    """Full context: one decision an utterance and block. The others cost nothing, and each gets what it gets alone."""
    gated = encoder(CONFIGS[kind])
    x, lens = speech()
    gates = gate_probabilities(gated, x, lens)
    gated.depth.threshold = float(gates.probabilities.median())
    ran: list[list[int]] = [[] for _ in gated.blocks]
    for i, block in enumerate(gated.blocks):
        block.register_forward_pre_hook(lambda _, given, i=i: ran[i].append(len(given[0])))
    y, y_lens = gated(x, lens)
    opened = gated.depth.last.open
    assert opened.shape == (6, 1, 3) and 0 < opened.mean() < 1
    assert [sum(sizes) for sizes in ran] == opened.sum((0, 1)).tolist()
    assert all(len(sizes) <= 1 for sizes in ran)
    for b, n in enumerate(y_lens.tolist()):
        alone, _ = gated(x[b : b + 1, : lens[b]], lens[b : b + 1])
        assert_close(y[b, :n], alone[0, :n])


@torch.inference_mode()
@pytest.mark.parametrize("chunk", CHUNKS, ids=str)
def test_in_streaming_a_block_sees_only_the_chunks_that_it_runs_on(chunk: Chunk) -> None:
    """Chunk by chunk, written out: a shut gate passes the chunk by and leaves the block's caches as they are."""
    gated = encoder()
    x, lens = speech(3)
    gated.depth.threshold = float(gate_probabilities(gated, x, lens, chunk).probabilities[0, :, 0].median())
    y, y_lens = gated(x, lens, chunk)
    opened = gated.depth.last.open
    assert 0 < opened[0, :, 0].mean() < 1, "a gate changes within an utterance"
    for b, n in enumerate(y_lens.tolist()):
        state: Any = gated.init_state(1, chunk)
        size = 4 * chunk.frames
        for i in range(-(-n // chunk.frames)):
            piece = x[b : b + 1, i * size : (i + 1) * size]
            real = (lens[b : b + 1] - i * size).clamp(0, size)
            piece = nn.functional.pad(piece, (0, 0, 0, size - piece.shape[1]))
            out, _, after = gated.step(piece, real, state, chunk)
            for gate, old, new in zip(opened[b, i], state.blocks, after.blocks, strict=True):
                assert int(new.position - old.position) == int(gate) * chunk.frames
                same = torch.equal(old.block.attention.keys, new.block.attention.keys)
                assert same == (gate == 0)
            end = min(n, (i + 1) * chunk.frames)
            assert_close(out[0, : end - i * chunk.frames], y[b, i * chunk.frames : end])
            state = after


@torch.inference_mode()
def test_an_hour_is_not_remembered() -> None:
    """What gates look at has no more weight after hours than after a minute."""
    gated, chunk = encoder(), CHUNKS[2]
    state = gated.init_state(1, chunk)
    for _ in range(60):
        _, _, state = gated.step(torch.randn(1, 64, 80).double(), torch.tensor([64]), state, chunk)
    assert state.blocks[0].frames == pytest.approx(MEMORY, rel=0.1)


def test_gates_are_drawn_as_often_as_their_probability_says() -> None:
    torch.manual_seed(0)
    depth = DynamicDepth(DepthConfig(temperature=0.7), 4, 1)
    logits = torch.tensor([-2.0, 0.0, 1.5]).repeat_interleave(4000)[:, None].requires_grad_()
    gates = depth._draw(logits)
    assert set(gates.detach().round(decimals=5).unique().tolist()) == {0.0, 1.0}
    shares = gates.detach().view(3, 4000).mean(1)
    torch.testing.assert_close(shares, torch.tensor([-2.0, 0.0, 1.5]).sigmoid(), atol=0.03, rtol=0)
    gates.sum().backward()
    assert logits.grad is not None and (logits.grad > 0).all()
    assert (depth._draw(torch.zeros(50, 3)).std(1) == 0).all(), "one draw for all chunks of an utterance"


@pytest.mark.parametrize("gates", ["local", "global"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_training_learns_to_be_shallow(kind: str, gates: Any) -> None:
    """The penalty alone shuts the gates; everything gets a gradient on the way."""
    chunks = CHUNKS if gates == "local" else ()
    made = replace(CONFIGS[kind], chunks=chunks, depth=DepthConfig(gates=gates, penalty=0.5))
    gated = encoder(made).train()
    optimizer = torch.optim.Adam(gated.depth.parameters(), 0.05)
    x, lens = speech(3, 200)
    for step in range(40):
        y, y_lens = gated(x, lens, gated.chunk_sizes[step % len(gated.chunk_sizes)])
        last = gated.depth.last
        (loss,) = gated.auxiliary_losses().values()
        assert loss.shape == (3,) and gated.auxiliary_losses() == {}
        torch.testing.assert_close(loss, 0.5 * last.open.mean(2).mul(last.frames).sum(1))
        assert last.frames.sum(1).tolist() == y_lens.tolist()
        if step == 0:
            (y.square().sum() + loss.sum()).backward(retain_graph=True)
            for name, parameter in gated.named_parameters():
                assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            assert (last.probabilities > 0.8).all(), "new gates are open"
        optimizer.zero_grad()
        (loss.sum() / y_lens.sum()).backward()
        optimizer.step()
    assert last.probabilities.mean() < 0.5


def test_the_task_adds_the_loss() -> None:
    model = small_model("dynamic depth").train()
    found, y_lens = losses(model, batch(), CHUNKS[0])
    assert set(found) == {"transducer.simple", "transducer.pruned", "ctc", "attention", "depth"}
    assert (found["depth"] <= SMALL.depth.penalty * y_lens + 1e-6).all() and found["depth"].requires_grad
    assert "depth" not in losses(small_model("conformer"), batch(), CHUNKS[0])[0]


def test_one_line_of_yaml(tmp_path: Path) -> None:
    given = config.from_dict(ModelConfig, {"encoder": {"kind": "conformer", "depth": {}}})
    assert isinstance(given.encoder, ConformerConfig) and given.encoder.depth == DepthConfig()
    assert config.from_dict(ModelConfig, config.to_dict(given)) == given
    model = small_model("dynamic depth")
    again = bundle.load(bundle.save(model, tmp_path / "bundle"))
    assert again.config == model.config
    assert isinstance(again.encoder, GatedEncoder) and again.encoder.depth is not None
    assert again.encoder.depth.threshold == 0.95


@pytest.mark.parametrize("kind", [ConformerConfig, TransformerConfig])
def test_what_cannot_be(kind: Any) -> None:
    with pytest.raises(ConfigError, match="global gates need the whole utterance"):
        kind(depth=DepthConfig(gates="global"))
    assert kind(depth=DepthConfig(gates="global"), chunks=()).depth.gates == "global"
    with pytest.raises(ConfigError, match=r"encoder\.depth\.threshold: 1.5"):
        DepthConfig(threshold=1.5)
    with pytest.raises(ConfigError, match=r"encoder\.depth\.temperature"):
        DepthConfig(temperature=0.0)


def test_probabilities_and_their_picture() -> None:
    gated = encoder().train()
    x, lens = speech()
    gates = gate_probabilities(gated, x, lens, CHUNKS[1])
    assert gated.training and gates.probabilities.shape == gates.open.shape == (6, 14, 3)
    assert ((gates.probabilities >= 0.95) & (gates.frames > 0)[..., None]).equal(gates.open.bool())
    image = picture(gates.probabilities[0], threshold=0.95, across="chunk")
    assert image.dtype == "uint8" and image.shape[2] == 3 and image.std() > 10
    with pytest.raises(ValueError, match="lacks `depth`"):
        gate_probabilities(encoder(replace(SMALL, depth=None)), x, lens)
