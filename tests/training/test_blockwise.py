"""Blocks whose activations are computed anew train as they would have."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from asr.encoders import ConformerConfig
from asr.model import Model, ModelConfig
from asr.tokenizer import Tokenizer
from asr.training.blockwise import blocks_of, checkpoint_activations
from asr.training.losses import losses
from tests.models import ENCODERS, TEXTS
from tests.training.fakes import batch_of

Step = tuple[dict[str, Tensor], dict[str, Tensor], object, Tensor]


def model_of(encoder: object) -> Model:
    torch.manual_seed(0)
    config = ModelConfig(encoder=encoder, transducer=None)
    return Model(config, Tokenizer.train(TEXTS, kind="characters")).train()


def step(model: Model, *, chunk: int = -1) -> Step:
    """Gradients, buffers, and where both generators of random numbers stand afterwards."""
    torch.manual_seed(3)
    random.seed(3)
    found, _ = losses(model, batch_of(["abcdabcd", "ab"]), model.encoder.chunk_sizes[chunk])
    torch.stack(list(found.values())).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return gradients, dict(model.named_buffers()), random.getstate(), torch.get_rng_state()


def same(one: Step, other: Step) -> None:
    for mine, theirs in zip(one[:2], other[:2], strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            assert torch.equal(value, theirs[name]), name
    assert one[2] == other[2] and torch.equal(one[3], other[3])


WITH_BATCH_NORM = replace(ENCODERS["conformer"], norm="batch", chunks=())


@pytest.mark.parametrize("kind", [*sorted(ENCODERS), "batch norm"])
@pytest.mark.parametrize("chunk", [0, -1])
def test_activations_computed_anew_give_the_same_to_the_bit(kind: str, chunk: int) -> None:
    """Dropout, skipped layers, Balancer and Whiten at their most frequent: schedules are at their beginning."""
    encoder = ENCODERS.get(kind, WITH_BATCH_NORM)
    wanted = step(model_of(encoder), chunk=chunk)
    model = model_of(encoder)
    blocks, calls = blocks_of(model.encoder), [0]
    for block in blocks:
        next(m for m in block.modules() if isinstance(m, torch.nn.Linear)).register_forward_hook(
            lambda *_: calls.__setitem__(0, calls[0] + 1)
        )
    checkpoint_activations(blocks)
    same(step(model, chunk=chunk), wanted)
    assert calls[0] == 2 * len(blocks)


def test_what_is_kept_is_less() -> None:
    """Bytes that autograd keeps between forward and backward."""

    def kept(model: Model) -> int:
        sizes: dict[int, int] = {}

        def pack(x: Tensor) -> Tensor:
            sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            losses(model, batch_of(["abcdabcd"] * 4), model.encoder.chunk_sizes[-1])
        return sum(sizes.values())

    encoder = ConformerConfig(dim=32, layers=8, heads=2, kernel=7, subsampling_channels=4, chunks=())
    plain, anew = model_of(encoder), model_of(encoder)
    checkpoint_activations(blocks_of(anew.encoder))
    assert kept(anew) < 0.4 * kept(plain)
