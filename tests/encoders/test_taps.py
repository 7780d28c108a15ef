from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import asr
from asr.encoders import FULL_CONTEXT
from asr.encoders.taps import tapped
from asr.errors import ConfigError
from asr.heads import CTCConfig
from asr.model import Model
from asr.training.losses import losses
from test_streaming_equals_offline import streamed
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


def self_conditioned(kind: str) -> Model:
    plain = small_model(kind)
    model = Model(
        replace(plain.config, ctc=CTCConfig(inner_layers=(1,), self_conditioned=True)), plain.tokenizer
    )
    with torch.no_grad():
        for layer in model.heads["ctc"].told.values():
            layer.weight.normal_()
    return model.double().eval()


@torch.inference_mode()
@pytest.mark.parametrize("kind", ENCODERS)
def test_what_ctc_makes_of_a_layer_goes_on_into_the_next(kind: str):
    """And streaming equals offline, padding is invisible, and a copy is one."""
    model, chunk = self_conditioned(kind), CHUNKS[0]
    encoder, ctc, after = model.encoder, model.heads["ctc"], []
    x, lens = torch.randn(3, 233, 80, dtype=torch.float64), torch.tensor([233, 150, 9])
    x = x.masked_fill(torch.arange(233)[None, :, None] >= lens[:, None, None], 0.0)
    handle = encoder.layers()[0].register_forward_hook(lambda *called: after.append(called[-1][0]))
    with tapped(encoder, [1]) as frames:
        whole, whole_lens = encoder(x, lens, chunk)
    handle.remove()
    heard = frames[1]
    if encoder.layer_rate == 1 and kind != "dynamic depth":  # which runs a block several times
        by_hand = heard + ctc.told["1"](ctc.output(ctc.inner["1"](heard)).softmax(-1))
        torch.testing.assert_close(after[0], by_hand)
    y, y_lens = streamed(encoder, x, lens, chunk)
    assert y_lens.tolist() == whole_lens.tolist()
    for b, n in enumerate(whole_lens.tolist()):
        torch.testing.assert_close(y[b, :n], whole[b, :n], atol=1e-9, rtol=0)
    alone, _ = encoder(x[1:2, :150], lens[1:2], chunk)
    torch.testing.assert_close(alone[0, : whole_lens[1]], whole[1, : whole_lens[1]], atol=1e-9, rtol=0)

    copy = deepcopy(model)
    for layer in copy.heads["ctc"].told.values():
        layer.weight.zero_()
    assert not torch.allclose(copy.encoder(x, lens, chunk)[0], whole)
    torch.testing.assert_close(encoder(x, lens, chunk)[0], whole)


def test_self_conditioned_models_train_and_are_kept(tmp_path: Path):
    model = self_conditioned("conformer").float().train()
    found, _ = losses(model, batch_of(["abcdabcd", "ab"]), CHUNKS[0])
    assert set(found) >= {"ctc", "ctc.inner"}
    (gradient,) = torch.autograd.grad(found["ctc"].sum(), model.heads["ctc"].told["1"].weight)
    assert gradient.abs().sum() > 0
    kept = asr.load(model.eval().save(tmp_path / "bundle"))
    samples, lens = torch.randn(1, 16_000), torch.tensor([16_000])
    with torch.inference_mode():
        torch.testing.assert_close(kept.encode(samples, lens)[0], model.encode(samples, lens)[0])
    with pytest.raises(ConfigError, match=r"self_conditioned: name the layers, as ctc\.inner_layers"):
        CTCConfig(self_conditioned=True)


def test_layers_that_there_are_not():
    plain = small_model("conformer")
    for layers in ((0,), (2,)):  # it has two, and the last one has CTC anyway
        with pytest.raises(
            ConfigError, match=r"inner_layers: \d is not one of the encoder's 2 before the last"
        ):
            Model(replace(plain.config, ctc=CTCConfig(inner_layers=layers)), plain.tokenizer)
    with pytest.raises(ConfigError, match="ascending"):
        CTCConfig(inner_layers=(2, 1))
