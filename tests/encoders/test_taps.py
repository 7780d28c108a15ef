from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from asr.encoders import FULL_CONTEXT
from asr.encoders.taps import tapped
from asr.errors import ConfigError
from asr.heads import CTCConfig
from asr.model import Model
from asr.training.losses import losses
from tests.models import CHUNKS, ENCODERS, small_model
from tests.training.fakes import batch_of


@pytest.mark.parametrize("kind", ENCODERS)
def test_what_comes_out_of_layers_is_at_the_rate_of_the_encoder(kind: str):
    encoder = small_model(kind).encoder.train()
    layers = range(1, len(encoder.layer_dims) + 1)
    x, lens = torch.randn(2, 150, 80), torch.tensor([150, 91])
    for chunk in (CHUNKS[0], FULL_CONTEXT):
        with tapped(encoder, layers) as frames:
            y, _ = encoder(x, lens, chunk)
        assert list(frames) == list(layers)
        for dim, inner in zip(encoder.layer_dims, frames.values(), strict=True):
            assert inner.shape[0] == 2 and inner.shape[2] == dim
            assert y.shape[1] <= inner.shape[1] <= y.shape[1] + 16
    with tapped(encoder, [1]) as frames:
        pass
    encoder(x, lens)
    assert not frames, "nobody listens any more"


@pytest.mark.parametrize("kind", [kind for kind in ENCODERS if kind != "dynamic depth"])  # skips blocks here
def test_inner_ctc_trains_inner_layers_and_costs_nothing_else(kind: str):
    plain = small_model(kind)
    config = replace(plain.config, ctc=CTCConfig(inner_layers=(1,), inner_weight=0.5))
    model = Model(config, plain.tokenizer)
    model.load_state_dict(plain.state_dict(), strict=False)
    batch, chunk = batch_of(["abcdabcd", "ab"]), CHUNKS[0]
    found, y_lens = losses(model.eval(), batch, chunk)
    usual, _ = losses(plain.eval(), batch, chunk)
    assert set(found) == {*usual, "ctc.inner"}
    for name, loss in usual.items():
        torch.testing.assert_close(found[name], loss)

    ctc = model.heads["ctc"]
    samples, lens = model.flushed(batch.samples, batch.sample_lens)
    with tapped(model.encoder, [1]) as frames:
        model.encode(samples, lens, chunk)
    x = ctc.output(ctc.inner["1"](frames[1])).log_softmax(-1).transpose(0, 1)
    by_hand = F.ctc_loss(x, batch.tokens, y_lens, batch.token_lens, reduction="none")
    torch.testing.assert_close(found["ctc.inner"], 0.5 * by_hand)
    last = next(iter(model.encoder.layers()[-1].parameters()))
    assert torch.autograd.grad(found["ctc.inner"].sum(), last, allow_unused=True) == (None,)


def test_layers_that_there_are_not():
    plain = small_model("conformer")
    for layers in ((0,), (2,)):  # it has two, and the last one has CTC anyway
        with pytest.raises(
            ConfigError, match=r"inner_layers: \d is not one of the encoder's 2 before the last"
        ):
            Model(replace(plain.config, ctc=CTCConfig(inner_layers=layers)), plain.tokenizer)
    with pytest.raises(ConfigError, match="ascending"):
        CTCConfig(inner_layers=(2, 1))
