"""ESPnet's ConformerEncoder, BranchformerEncoder and EBranchformerEncoder: .pth beside config.yaml -> bundle -> outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from asr import bundle
from asr.convert import espnet
from asr.errors import BundleError
from convert import peers

DECODER = {"decoder.output_layer.bias": torch.zeros(3)}


def checkpoint(folder: Path, name: str, conf: dict[str, Any] | None = None, **changes: Any) -> Path:
    config = peers.config(f"espnet-{name}") | changes
    config["encoder_conf"] |= conf or {}
    (folder / "config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True))
    path = folder / "valid.acc.ave.pth"
    path.write_bytes(peers.pickled(peers.tensors(f"espnet-{name}") | DECODER))
    return path


@pytest.mark.parametrize(
    "name",
    [
        "conformer",
        "branchformer",
        "branchformer-learned",
        "branchformer-fixed",
        "e-branchformer",
        "e-branchformer-plain",
        "conformer-legacy",
        "conformer-absolute",
        "branchformer-legacy",
        "e-branchformer-absolute",
    ],
)
def test_full_context(name: str, tmp_path: Path) -> None:
    """ESPnet's convolutions read the padding of shorter utterances; ours give what it gives without padding."""
    result = espnet.convert(checkpoint(tmp_path, name))
    assert result.left_over == tuple(DECODER)
    peers.assert_alone(bundle.load(result.model.save(tmp_path / "bundle")), peers.values(f"espnet-{name}"))


def test_the_attention_decoder(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, "attention")
    path.write_bytes(peers.pickled(peers.tensors("espnet-attention")))
    result = espnet.convert(path)
    model = bundle.load(result.model.save(tmp_path / "bundle"))
    peers.assert_decoders(model, peers.values("espnet-attention"))
    assert result.left_over == () and model.config.attention.label_smoothing == 0.1
    assert model.transcribe(torch.randn(16_000).numpy(), head="attention").duration == 1.0


def test_what_cannot_be_converted_of_a_decoder_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="decoder_conf.normalize_before: False has no counterpart"):
        espnet.convert(checkpoint(tmp_path, "attention", decoder_conf={"normalize_before": False}))
    with pytest.raises(BundleError, match="begin with token 2 and end with token 12"):
        espnet.convert(checkpoint(tmp_path, "attention", sym_sos="▁a"))
    left_over = espnet.convert(checkpoint(tmp_path, "attention", decoder="rnn")).left_over
    assert "decoder.decoders.0.norm1.bias" in left_over


def test_characters(tmp_path: Path) -> None:
    tokens = ["<blank>", "<unk>", "<space>", *"abcdefghi", "<sos/eos>"]
    tokenizer = espnet.convert(checkpoint(tmp_path, "conformer", token_list=tokens)).model.tokenizer
    assert tokenizer.encode("ab a!") == [3, 4, 2, 3, 1]
    assert tokenizer.decode([3, 4, 2, 3, 12]) == "ab a"


def test_subwords_are_numbered_as_in_the_token_list(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "exp").mkdir()
    (tmp_path / "data" / "bpe.model").write_bytes(peers.sentencepiece_model(10))
    tokens = ["<blank>", "<unk>", "c", "b", "a", "▁", "▁a", "ab", "ca", "cb", "x", "y", "<sos/eos>"]
    changes = {"token_type": "bpe", "bpemodel": "data/bpe.model", "token_list": tokens}
    tokenizer = espnet.convert(checkpoint(tmp_path / "exp", "conformer", **changes)).model.tokenizer
    assert [tokenizer.piece(i) for i in range(1, 13)] == tokens[1:]
    assert tokenizer.decode(tokenizer.encode("ab cab")) == "ab cab"
    assert tokenizer.decode([12, 4]) == "a"


def test_what_cannot_be_converted_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="encoder_conf.normalize_before: False has no counterpart"):
        espnet.convert(checkpoint(tmp_path, "conformer", {"normalize_before": False}))
    for key, value in {
        "pos_enc_layer_type": "scaled_abs_pos",
        "input_layer": "linear",
        "zero_triu": True,
    }.items():
        with pytest.raises(BundleError, match=f"encoder_conf.{key}: {value!r} has no counterpart"):
            espnet.convert(checkpoint(tmp_path, "conformer", {key: value}))
    with pytest.raises(BundleError, match="encoder: 'rnn' has no counterpart"):
        espnet.convert(checkpoint(tmp_path, "conformer", encoder="rnn"))
    with pytest.raises(BundleError, match="SentencePiece model is not found; give --tokenizer"):
        espnet.convert(checkpoint(tmp_path, "conformer", token_type="bpe", bpemodel="lost/bpe.model"))
    with pytest.raises(BundleError, match="ctc_lo.*shape.*tokenizer has 3 tokens"):
        espnet.convert(checkpoint(tmp_path, "conformer", token_list=["<blank>", "<unk>", "a"]))
    path = checkpoint(tmp_path, "conformer")
    (tmp_path / "config.yaml").unlink()
    with pytest.raises(BundleError, match="config.yaml is missing: it lies beside the checkpoint"):
        espnet.convert(path)
