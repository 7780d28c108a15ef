"""NeMo's transducers, TDT and hybrids among them: .nemo archive -> bundle -> the same joiner, the same greedy tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from asr import bundle
from asr.convert import nemo, nemo_transducer
from asr.errors import BundleError
from asr.heads import TDTConfig, Transducer
from asr.heads.predictors import LSTMConfig
from asr.model import Model
from convert import peers
from convert.test_nemo import checkpoint


def converted(folder: Path, name: str) -> tuple[Model, Transducer]:
    """Through the bundle, as users have it."""
    model = bundle.load(nemo.convert(checkpoint(folder, name)).model.save(folder / "bundle"))
    head = model.heads["transducer"]
    assert isinstance(head, Transducer)
    return model, head


@torch.inference_mode()
@pytest.mark.parametrize("name", ["rnnt", "tdt", "fast-conformer-streaming"])
def test_predictor_and_joiner(name: str, tmp_path: Path) -> None:
    _, head = converted(tmp_path, name)
    golden = peers.values(f"nemo-{name}")
    predicted = head.predictor(golden["decoder_in"] + 1)
    peers.assert_close(predicted, golden["decoder_out"])
    if "encoder_out" in golden:
        y = golden["encoder_out"][:, :8]
    else:
        y = torch.cat([golden[f"alone.{i}.encoder_out"][:, :8] for i in range(2)])
    encoder, predictor = head.encoder_projection(y)[:, :, None], head.predictor_projection(predicted)[:, None]
    logits, theirs = head.join(encoder, predictor), golden["joint_logits"]
    size = logits.shape[-1]
    peers.assert_close(logits.roll(-1, -1), theirs[..., :size])
    if head.config.tdt is not None:
        peers.assert_close(head.join_durations(encoder, predictor), theirs[..., size:])
    else:
        assert theirs.shape[-1] == size


@torch.inference_mode()
@pytest.mark.parametrize("name", ["rnnt", "tdt"])
@pytest.mark.parametrize("size", [1, 7, 100])
def test_greedy_tokens_and_frames(name: str, size: int, tmp_path: Path) -> None:
    """Both utterances in one batch, whole and cut, give what the peer finds in each by itself."""
    model, head = converted(tmp_path, name)
    golden = peers.values(f"nemo-{name}")
    y, y_lens = model.encoder(golden["features"], golden["feature_lens"])
    state, found = head.init_state(2), [[], []]
    for begin in range(0, y.shape[1], size):
        new, state = head.step(y[:, begin : begin + size], (y_lens - begin).clamp(0, size), state)
        found = [a + b for a, b in zip(found, new, strict=True)]
    for i in range(2):
        peers.assert_close(y[i, : int(y_lens[i])], golden[f"alone.{i}.encoder_out"][0])
        assert [e.token - 1 for e in found[i]] == golden[f"alone.{i}.tokens"].tolist()
        assert [e.frame for e in found[i]] == golden[f"alone.{i}.frames"].tolist()
        assert len(set(golden[f"alone.{i}.tokens"].tolist())) > 3


def test_what_is_read_from_the_configuration(tmp_path: Path) -> None:
    model, head = converted(tmp_path, "tdt")
    assert head.config.tdt == TDTConfig(durations=(0, 1, 2, 3), sigma=0.02, omega=0.1)
    assert head.config.predictor == LSTMConfig(dim=12, layers=1, dropout=0.1)
    assert (head.config.loss, head.config.joiner_activation, head.config.max_symbols) == ("full", "relu", 5)
    assert model.config.ctc is None
    (tmp_path / "hybrid").mkdir()
    hybrid, head = converted(tmp_path / "hybrid", "fast-conformer-streaming")
    assert set(hybrid.heads) == {"transducer", "ctc"} and head.spared


def change(name: str, **parts: Any) -> None:
    config = peers.config(f"nemo-{name}")
    for part, values in parts.items():
        config[part] |= values
    nemo_transducer.transducer(config, peers.tensors(f"nemo-{name}"))


def test_what_cannot_be_converted_is_named() -> None:
    with pytest.raises(BundleError, match="StatelessTransducerDecoder has no counterpart"):
        change("rnnt", decoder={"_target_": "nemo.StatelessTransducerDecoder"})
    with pytest.raises(BundleError, match="normalization_mode: layer"):
        change("rnnt", decoder={"normalization_mode": "layer"})
    with pytest.raises(BundleError, match=r"joint\.jointnet\.activation: 'sigmoid' has no counterpart"):
        change("rnnt", joint={"jointnet": {"activation": "sigmoid"}})
    with pytest.raises(BundleError, match="loss_name: multiblank_rnnt"):
        change("tdt", loss={"loss_name": "multiblank_rnnt"})


def test_without_a_row_for_the_blank() -> None:
    """`blank_as_pad: false`: the table holds the tokens only; before the first stands a zero vector all the same."""
    tensors = peers.tensors("nemo-rnnt")
    name = nemo_transducer.EMBEDDING
    with_row = nemo_transducer.transducer(peers.config("nemo-rnnt"), tensors)[1][name]
    without = nemo_transducer.transducer(peers.config("nemo-rnnt"), tensors | {name: tensors[name][:-1]})[1][
        name
    ]
    assert torch.equal(with_row, without) and not with_row[0].any()
