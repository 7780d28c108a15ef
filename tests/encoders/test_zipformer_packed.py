"""The kernel of a whole block against the same block in torch, streamed and whole, alone and in batches of all ages."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from asr import native
from asr.encoders import FULL_CONTEXT, Chunk, build
from asr.encoders.zipformer import Zipformer, ZipformerConfig
from asr.errors import ConfigError
from asr.native.linear import multiplies_bytes
from asr.state import map_tree
from models import CHUNKS, ENCODERS

pytestmark = pytest.mark.skipif(not native.available(), reason="without the C library nothing is packed")
ODD = ZipformerConfig(
    layers=(1, 1, 2, 1, 1, 1), dims=(33, 40, 50, 71, 50, 40), feed_forward_dims=(20, 33, 64, 100, 64, 33),
    unmasked_dims=(16, 16, 16, 16, 16, 16), heads=(1, 2, 3, 4, 2, 1), kernels=(9, 31, 15, 15, 15, 31), query_dim=5,
    value_dim=3, embed_channels=(2, 4, 8), chunks=CHUNKS,
)  # fmt: skip


@pytest.fixture(params=["small", "odd"])
def pair(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """The same encoder, as it is and packed; no parameter at its first value."""
    torch.manual_seed(0)
    plain = build(ENCODERS["zipformer"] if request.param == "small" else ODD, 80).eval()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    packed = copy.deepcopy(plain)
    packed.pack()
    assert all(block.packed is not None for stack in packed.stacks for block in stack.blocks)
    return plain, packed


def close(a: Tensor, b: Tensor) -> Tensor:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5)
    return a


@torch.inference_mode()
@pytest.mark.parametrize("chunk", CHUNKS, ids=str)
@pytest.mark.parametrize("batch", [1, 3])
def test_steps_of_a_stream(pair: tuple[Any, Any], chunk: Chunk, batch: int) -> None:
    plain, packed = pair
    size, generator = 4 * chunk.frames, torch.Generator().manual_seed(2)
    states = [encoder.init_state(batch, chunk) for encoder in pair]
    for step in range(5):
        frames = size * (1 + step % 2) + (plain.lookahead if step == 0 else 0)
        x = torch.randn(batch, frames, 80, generator=generator)
        lens = torch.full((batch,), frames)
        lens[-1] -= 9 if step == 4 else 0
        y, _, states[0] = plain.step(x, lens, states[0], chunk)
        z, _, states[1] = packed.step(x, lens, states[1], chunk)
        close(z, y)
        map_tree(close, states[1], states[0])


@torch.inference_mode()
@pytest.mark.parametrize("chunk", [*CHUNKS, FULL_CONTEXT], ids=str)
def test_whole_utterances(pair: tuple[Any, Any], chunk: Chunk) -> None:
    x, lens = (
        torch.randn(3, 333, 80, generator=torch.Generator().manual_seed(3)),
        torch.tensor([333, 250, 40]),
    )
    (y, y_lens), (z, _) = (encoder(x, lens, chunk) for encoder in pair)
    for b, n in enumerate(y_lens.tolist()):
        close(z[b, :n], y[b, :n])


def test_training_and_copies_are_not_packed(pair: tuple[Any, Any]) -> None:
    _, packed = pair
    assert all(block.packed is None for stack in copy.deepcopy(packed).stacks for block in stack.blocks)
    x, lens = torch.randn(1, 64, 80), torch.tensor([64])
    y, _ = packed(x, lens)
    y.sum().backward()  # with gradients, torch's own operations run
    packed.train().eval()
    assert all(block.packed is None for stack in packed.stacks for block in stack.blocks)


def test_what_has_no_kernel_stays_as_it_is() -> None:
    for encoder in (
        build(ENCODERS["zipformer"], 80).double(),
        Zipformer(ZipformerConfig(size="s", causal=False)),
    ):
        encoder.pack()
        assert all(block.packed is None for stack in encoder.stacks for block in stack.blocks)


@torch.inference_mode()
@pytest.mark.skipif(not multiplies_bytes(), reason="needs AVX-512 VNNI")
def test_bytes_say_nearly_the_same(pair: tuple[Any, Any]) -> None:
    plain, packed = pair
    packed.pack(int8=True)
    x, lens = torch.randn(2, 300, 80, generator=torch.Generator().manual_seed(4)), torch.tensor([300, 300])
    (y, _), (z, _) = (encoder(x, lens, CHUNKS[1]) for encoder in (plain, packed))
    assert 0 < (z - y).norm() / y.norm() < 0.05


def test_bytes_where_there_are_none() -> None:
    with pytest.raises(ConfigError, match="int8 needs"):
        Zipformer(ZipformerConfig(size="s", causal=False)).pack(int8=True)
