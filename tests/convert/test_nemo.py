"""NeMo's ConformerEncoder, FastConformer and SqueezeformerEncoder: .nemo archive -> bundle -> the same outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from asr import bundle
from asr.convert import nemo
from asr.encoders import Chunk
from asr.errors import BundleError
from asr.model import Model
from convert import peers

CHUNKS = (Chunk(4, 8), Chunk(2, 6), Chunk(1, 4))
STREAMED = ["fast-conformer-streaming", "conformer-streaming"]
OFFLINE = ["conformer", "conformer-absolute", "fast-conformer", "squeezeformer"]
PREPROCESSOR = {"preprocessor.featurizer.window": torch.zeros(400)}


def checkpoint(folder: Path, name: str, *, mode: str = "w", **changes: Any) -> Path:
    config = peers.config(f"nemo-{name}")
    config["tokenizer"]["model_path"] = "nemo:0123_tokenizer.model"
    config["encoder"] |= changes
    files = {
        "model_config.yaml": yaml.safe_dump(config).encode(),
        "model_weights.ckpt": peers.pickled(peers.tensors(f"nemo-{name}") | PREPROCESSOR),
        "0123_tokenizer.model": peers.sentencepiece_model(10),
    }
    return peers.archive(folder / f"{name}.nemo", files, mode=mode)


def converted(folder: Path, name: str) -> Model:
    """Through the bundle, as users have it."""
    result = nemo.convert(checkpoint(folder, name))
    assert set(result.left_over) == set(PREPROCESSOR)
    return bundle.load(result.model.save(folder / "bundle"))


@pytest.mark.parametrize("name", [*STREAMED, *OFFLINE])
def test_full_context(name: str, tmp_path: Path) -> None:
    peers.assert_alone(converted(tmp_path, name), peers.values(f"nemo-{name}"), blank_last=True)


@pytest.mark.parametrize("name", STREAMED)
def test_chunks_and_caches(name: str, tmp_path: Path) -> None:
    """NeMo's own first steps of one frame depart from its mask (its cache begins with frames of zeros): ours do not."""
    model, golden = converted(tmp_path, name), peers.values(f"nemo-{name}")
    assert set(model.encoder.chunk_sizes) > set(CHUNKS)
    for chunk in CHUNKS:
        whole = f"chunk{chunk.frames}_left{chunk.left}.encoder_out"
        y, y_lens = peers.masked(model, golden["features"], golden["feature_lens"], chunk)
        for i, length in enumerate(y_lens.tolist()):
            peers.assert_close(y[i, :length], golden[whole][i, :length])
        ours = peers.streamed(model, golden["features"][:1], chunk)
        peers.assert_close(ours, golden[whole if chunk.frames == 1 else whole.replace("chunk", "stream")][:1])


def test_the_frame_that_nemo_counts_more(tmp_path: Path) -> None:
    """Its causal subsampling makes 27 frames of 203, ours 26: all before the last chunk agree."""
    model, golden = (
        converted(tmp_path, "fast-conformer-streaming"),
        peers.values("nemo-fast-conformer-streaming"),
    )
    x = golden["tail.features"]
    y, y_lens = peers.masked(model, x, torch.tensor([x.shape[1]]), CHUNKS[0])
    assert (int(y_lens), int(golden["tail.encoder_out_lens"])) == (26, 27)
    peers.assert_close(y[:, :24], golden["tail.encoder_out"][:, :24])


def test_the_tokenizer_has_the_blank_first(tmp_path: Path) -> None:
    tokenizer = nemo.convert(checkpoint(tmp_path, "conformer", mode="w:gz")).model.tokenizer
    assert tokenizer.size == 11
    assert tokenizer.decode(tokenizer.encode("abc cab")) == "abc cab"


def test_what_cannot_be_converted_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="rel_pos_local_attn.*no counterpart.*change_attention_model"):
        nemo.convert(checkpoint(tmp_path, "conformer", self_attention_model="rel_pos_local_attn"))
    for key, value in {
        "conv_norm_type": "fused_batch_norm",
        "subsampling": "vggnet",
        "reduction": "pooling",
    }.items():
        with pytest.raises(BundleError, match=f"encoder.{key}: {value!r} has no counterpart"):
            nemo.convert(checkpoint(tmp_path, "conformer", **{key: value}))
    with pytest.raises(BundleError, match=r"att_context_size: \[8, 3\] of style regular has no counterpart"):
        nemo.convert(checkpoint(tmp_path, "conformer", att_context_size=[8, 3]))
    with pytest.raises(BundleError, match="_target_: Longformer has no counterpart"):
        nemo.convert(checkpoint(tmp_path, "conformer", _target_="some.Longformer"))
    with pytest.raises(BundleError, match="nothing for encoder.blocks.3.*more"):
        nemo.convert(checkpoint(tmp_path, "conformer", n_layers=4))
    (tmp_path / "x.nemo").write_bytes(b"PK")
    with pytest.raises(BundleError, match="not a whole tar"):
        nemo.convert(tmp_path / "x.nemo")
    only = {
        "model_config.yaml": b"encoder: {}",
        "model_weights.ckpt": peers.pickled({"joint.enc.bias": torch.ones(1)}),
    }
    with pytest.raises(BundleError, match="decoder._target_: None has no counterpart"):
        nemo.convert(peers.archive(tmp_path / "x.nemo", only))
    only["model_weights.ckpt"] = peers.pickled({"sortformer.bias": torch.ones(1)})
    with pytest.raises(BundleError, match="neither CTC nor transducer.*sortformer.bias"):
        nemo.convert(peers.archive(tmp_path / "x.nemo", only))
