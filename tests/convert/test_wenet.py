"""WeNet's streaming Conformer: final.pt beside train.yaml and units.txt -> bundle -> outputs, whole, masked and streamed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from asr import bundle
from asr.convert import wenet
from asr.encoders import FULL_CONTEXT, Chunk
from asr.errors import BundleError
from convert import peers

NAME = "wenet-conformer"
CHUNKS = {"4_left2": Chunk(4, 8), "8_left1": Chunk(8, 8)}
CASES = {NAME: CHUNKS, "wenet-conformer-absolute": {"4_left2": Chunk(4, 8)}, "wenet-conformer-offline": {}}


def checkpoint(folder: Path, conf: dict[str, Any] | None = None, *, name: str = NAME, **changes: Any) -> Path:
    config = peers.config(name) | changes
    config["encoder_conf"] |= conf or {}
    units = enumerate(config.pop("units"))
    (folder / "units.txt").write_text("".join(f"{unit} {i}\n" for i, unit in units), encoding="utf-8")
    (folder / "train.yaml").write_text(yaml.safe_dump(config))
    (folder / "final.pt").write_bytes(peers.pickled(peers.tensors(name)))
    return folder / "final.pt"


@pytest.mark.parametrize("name", CASES)
def test_whole_masked_and_streamed(name: str, tmp_path: Path) -> None:
    result = wenet.convert(checkpoint(tmp_path, name=name))
    assert result.left_over == ()
    model, golden = bundle.load(result.model.save(tmp_path / "bundle")), peers.values(name)
    # WeNet takes features of 16-bit integers, and normalizes them in its encoder
    x = golden["features"] = model.features.normalize(golden["features"] - 2 * math.log(1 << 15))
    # the peer has nothing but its static chunks, which see all that stands before them
    whole = Chunk(4, 400) if name == "wenet-conformer-absolute" else FULL_CONTEXT
    peers.assert_alone(model, golden, chunk=whole)
    for cut, chunk in CASES[name].items():
        y, y_lens = peers.masked(model, x, golden["feature_lens"], chunk)
        for i, length in enumerate(y_lens.tolist()):
            peers.assert_close(y[i, :length], golden[f"chunk{cut}.encoder_out"][i, :length])
        length = int(y_lens[0])
        theirs = golden[f"stream{cut}.encoder_out"][:, :length]
        peers.assert_close(peers.streamed(model, x[:1], chunk)[:, :length], theirs)


def test_what_cannot_be_converted_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        BundleError, match="encoder_conf.selfattention_layer_type: 'rope_abs_selfattn' has no"
    ):
        wenet.convert(checkpoint(tmp_path, {"selfattention_layer_type": "rope_abs_selfattn"}))
    with pytest.raises(BundleError, match="encoder: 'squeezeformer' has no counterpart"):
        wenet.convert(checkpoint(tmp_path, encoder="squeezeformer"))
    path = checkpoint(tmp_path)
    (tmp_path / "units.txt").unlink()
    with pytest.raises(BundleError, match="units.txt, the units that train.yaml names, are not found"):
        wenet.convert(path)
    path.write_bytes(b"")
    with pytest.raises(BundleError, match="not a checkpoint that can be read safely"):
        wenet.convert(path)


@pytest.mark.parametrize("name", ["attention", "attention-both-ways"])
def test_attention_decoders(name: str, tmp_path: Path) -> None:
    result = wenet.convert(checkpoint(tmp_path, name=f"wenet-{name}"))
    model, golden = bundle.load(result.model.save(tmp_path / "bundle")), peers.values(f"wenet-{name}")
    golden["features"] = model.features.normalize(golden["features"] - 2 * math.log(1 << 15))
    assert result.left_over == ()
    peers.assert_decoders(model, golden)
    assert (model.config.attention.reverse_weight, model.config.attention.sos_eos) == (0.3, 12)


def test_texts_begin_and_end_with_one_token(tmp_path: Path) -> None:
    special = {"special_tokens": {"<sos>": 2, "<eos>": 12}}
    path = checkpoint(tmp_path, name="wenet-attention", tokenizer_conf=special)
    with pytest.raises(BundleError, match="begin with token 2 and end with token 12"):
        wenet.convert(path)


def test_units_are_the_tokens(tmp_path: Path) -> None:
    tokenizer = wenet.convert(checkpoint(tmp_path)).model.tokenizer
    assert tokenizer.size == 13
    assert tokenizer.decode([2, 3, 12]) == "\u4e00\u4e01"
    assert tokenizer.encode("\u4e00") == [2]


@pytest.mark.parametrize("name", [NAME, "wenet-conformer-absolute"])
def test_its_variants_stream_as_they_mask(name: str, tmp_path: Path) -> None:
    """Places of keys and padding in front of the gate, in float64: with a state that begins and one that goes on."""
    model = wenet.convert(checkpoint(tmp_path, name=name)).model.double()
    x = peers.values(name)["features"][:1].double()
    for chunk in CHUNKS.values():
        y, y_lens = peers.masked(model, x, torch.tensor([x.shape[1]]), chunk)
        length = int(y_lens)
        torch.testing.assert_close(
            peers.streamed(model, x, chunk)[:, :length], y[:, :length], atol=1e-9, rtol=0
        )
