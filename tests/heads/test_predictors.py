"""Predictors: what they depend on, and how they are configured."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

import asr
from asr import config
from asr.errors import ConfigError
from asr.heads import TransducerConfig
from asr.heads.predictors import LabelEncoder, LabelEncoderConfig, LSTMConfig, StatelessConfig, build
from asr.state import map_tree, stack, unstack, where
from models import PREDICTORS, small_model

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
HERE = "model.transducer"


def read(text: str) -> TransducerConfig:
    return config.from_dict(TransducerConfig, text, where=HERE)


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("kind", PREDICTORS)
def test_token_by_token_gives_what_the_whole_gives(kind: str, dtype: torch.dtype) -> None:
    """For streams of different ages in one batch, one of them idle now and then, with caches that must not be read."""
    torch.manual_seed(0)
    predictor = build(PREDICTORS[kind], 9).to(dtype).eval()
    tokens = torch.randint(1, 9, (3, 12))
    whole, given = predictor(tokens), torch.nn.functional.pad(tokens, (1, 1))
    state = predictor.init_state(3)
    if kind == "transformer":
        state = map_tree(lambda x: torch.full_like(x, torch.nan) if x.is_floating_point() else x, state)
    states = unstack(state)
    for i in range(4):  # the first becomes four tokens older than the others
        y, states[0] = predictor.step(given[:1, i], states[0])
        torch.testing.assert_close(y, whole[:1, i], atol=TOLERANCE[dtype], rtol=0)
    state, at = stack(states), torch.tensor([4, 0, 0])
    for turn in range(9):
        before = map_tree(torch.clone, state)
        y, new = predictor.step(given.gather(1, at[:, None])[:, 0], state)
        map_tree(assert_equal, state, before)
        torch.testing.assert_close(y, whole[torch.arange(3), at], atol=TOLERANCE[dtype], rtol=0)
        goes = torch.tensor([True, True, turn % 2 == 0])
        state, at = where(goes, new, state), at + goes
    assert at.tolist() == [13, 9, 5]


def assert_equal(a: Tensor, b: Tensor) -> Tensor:
    torch.testing.assert_close(a, b, atol=0, rtol=0, equal_nan=True)
    return a


@torch.inference_mode()
@pytest.mark.parametrize(("kind", "reach"), [("stateless", 1), ("transformer", 4), ("lstm", 9)])
def test_how_far_back_it_sees(kind: str, reach: int) -> None:
    """Context - 1 tokens before the last, layers x left, or all of them; never a later one."""
    torch.manual_seed(0)
    predictor = build(PREDICTORS[kind], 9).double().eval()
    tokens = torch.randint(1, 8, (1, 10))
    whole = predictor(tokens)
    for i in range(10):
        other = tokens.clone()
        other[0, i] = 8
        changed = (predictor(other) - whole).abs().amax(2)[0].nonzero()[:, 0].tolist()
        assert changed == list(range(i + 1, min(11, i + 2 + reach)))


@torch.inference_mode()
def test_what_a_label_encoder_keeps_does_not_grow() -> None:
    predictor = build(PREDICTORS["transformer"], 9).eval()
    assert isinstance(predictor, LabelEncoder)
    state = predictor.init_state(1)
    for _ in range(20):
        _, state = predictor.step(torch.tensor([3]), state)
    assert all(layer.keys.shape == (1, 2, 8) == layer.values.shape for layer in state.layers)


def test_the_blank_of_an_lstm_is_zero_and_stays_so() -> None:
    predictor = build(PREDICTORS["lstm"], 9)
    predictor(torch.tensor([[3, 0, 5]])).sum().backward()
    assert not predictor.embedding.weight[0].any()
    assert not predictor.embedding.weight.grad[0].any() and predictor.embedding.weight.grad[3].any()


def test_configurations() -> None:
    given = read({"predictor": {"kind": "lstm", "dim": 64}, "joiner_dim": 32})  # type: ignore[arg-type]
    assert given.predictor == LSTMConfig(dim=64)
    assert read({"predictor": {"dim": 64}}).predictor == StatelessConfig(dim=64)  # type: ignore[arg-type]
    for kind in PREDICTORS.values():
        assert read(config.to_dict(TransducerConfig(predictor=kind))).predictor == kind
    with pytest.raises(ConfigError, match=r"predictor\.dim: 7 is odd"):
        LabelEncoderConfig(dim=7)
    with pytest.raises(ConfigError, match=r"predictor\.dim: 6 is not a multiple of 4"):
        StatelessConfig(dim=6)


def test_keys_of_earlier_versions() -> None:
    """Bundles and recipes from before there were other predictors."""
    given = read({"predictor_dim": 24, "context": 3})  # type: ignore[arg-type]
    assert given.predictor == StatelessConfig(dim=24, context=3)
    with pytest.raises(ConfigError, match=r"predictor_dim: is called predictor\.dim now; give that alone"):
        read({"predictor_dim": 24, "predictor": {"dim": 24}})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"unknown key predictor\.context"):
        read({"context": 3, "predictor": {"kind": "lstm"}})  # type: ignore[arg-type]


def test_a_bundle_from_before_is_read(tmp_path: Path) -> None:
    model = small_model("conformer")
    path = model.save(tmp_path / "old") / "config.yaml"
    now = r"    predictor:\n      kind: stateless\n      dim: (\d+)\n      context: (\d+)\n"
    text, found = re.subn(now, r"    predictor_dim: \1\n    context: \2\n", path.read_text())
    assert found == 1
    path.write_text(text)
    assert asr.load(path.parent).config == model.config
