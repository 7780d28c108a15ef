"""WeNet's checkpoints: `final.pt` beside `train.yaml`, which names the list of units and the SentencePiece model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from asr.convert.decoder import DECODER, attention, sos_eos
from asr.convert.espnet import CONFORMER
from asr.convert.files import beside, read_tensors, read_yaml
from asr.convert.place import Converted, Rule, place
from asr.convert.variants import settle
from asr.convert.vocabulary import characters, subwords
from asr.encoders import Chunk, ConformerConfig
from asr.encoders.norm import Norm
from asr.encoders.positions import Positions
from asr.encoders.subsampling import Factor
from asr.errors import BundleError
from asr.features import FeaturesConfig
from asr.heads import CTCConfig
from asr.model import Model, ModelConfig
from asr.tokenizer import Tokenizer

__all__ = ["convert"]

NAMES: tuple[Rule, ...] = (
    (r"^encoder\.global_cmvn\.mean$", "features.mean"),
    (r"^encoder\.global_cmvn\.istd$", "features.scale"),
    (r"^encoder\.embed\.linear\.", "encoder.front.project."),
    *CONFORMER,
)
FORMS = {
    "output_size": 256, "attention_heads": 4, "linear_units": 2048, "num_blocks": 6, "dropout_rate": 0.1,
    "attention_dropout_rate": 0.0, "input_layer": "conv2d", "pos_enc_layer_type": "rel_pos", "normalize_before": True,
    "static_chunk_size": 0, "use_dynamic_chunk": False, "macaron_style": True, "activation_type": "swish",
    "selfattention_layer_type": "rel_selfattn", "use_cnn_module": True, "cnn_module_kernel": 15, "causal": False,
    "cnn_module_norm": "batch_norm", "layer_norm_type": "layer_norm", "norm_eps": 1e-5, "conv_norm_eps": 1e-5,
    "query_bias": True, "key_bias": True, "value_bias": True, "conv_bias": True, "conv_inner_factor": 2,
    "mlp_type": "position_wise_feed_forward", "mlp_bias": True, "final_norm": True, "n_kv_head": None, "head_dim": None,
}  # fmt: skip
FACTORS: dict[str, Factor] = {"conv2d": 4, "conv2d6": 6, "conv2d8": 8}
POSITIONS: dict[str, Positions] = {"rel_pos": "places", "abs_pos": "absolute"}
NORMS: dict[str, Norm] = {"batch_norm": "batch", "layer_norm": "layer"}
SUPPORTED = {
    "input_layer": tuple(FACTORS), "pos_enc_layer_type": tuple(POSITIONS), "normalize_before": (True,),
    "macaron_style": (True, False), "activation_type": ("swish", "relu", "gelu"), "use_cnn_module": (True,),
    "selfattention_layer_type": ("rel_selfattn", "selfattn"), "cnn_module_norm": tuple(NORMS), "conv_norm_eps": (1e-5,),
    "layer_norm_type": ("layer_norm",), "conv_inner_factor": (2,), "mlp_type": ("position_wise_feed_forward",),
    "query_bias": (True,), "key_bias": (True,), "value_bias": (True,), "conv_bias": (True,), "mlp_bias": (True,),
    "final_norm": (True,), "n_kv_head": (None,), "head_dim": (None,),
}  # fmt: skip
CHUNKS = (Chunk(8, 32), Chunk(16, 64), Chunk(24, 96))  # of those up to 25 frames that dynamic chunks train
LOUDER = 2 * math.log(
    1 << 15
)  # log-mel values of WeNet's samples, 16-bit integers, over those of ours in [-1, 1]


def convert(path: str | Path, tokenizer: str | Path | None = None) -> Converted:
    """The model of a checkpoint; `tokenizer` is its SentencePiece model, where train.yaml's path leads nowhere.

    Raises BundleError: a file is missing or damaged, or the encoder is of a form that ours lack.
    """
    path = Path(path)
    tensors = read_tensors(path)
    config = read_yaml(path.with_name("train.yaml"))
    if config.get("encoder") != "conformer":
        raise BundleError(
            f"encoder: {config.get('encoder')!r} has no counterpart here; converted are: conformer"
        )
    vocabulary = _tokenizer(path, config, tokenizer)
    last, special = vocabulary.size - 1, (config.get("tokenizer_conf") or {}).get("special_tokens") or {}
    boundary = sos_eos(special.get("<sos>", last), special.get("<eos>", last))
    decoder = attention(config, tokens=vocabulary.size, boundary=boundary)
    heard = any(name.startswith("ctc.") for name in tensors)
    if not heard and decoder is None:
        raise BundleError(f"{path}: has no CTC layer, and its other heads have no counterpart here")
    mean = "encoder.global_cmvn.mean"
    settings = ModelConfig(
        features=FeaturesConfig(bins=int(config["input_dim"]), high_hz=0.0, normalize=mean in tensors),
        encoder=_encoder(config.get("encoder_conf") or {}),
        transducer=None,
        ctc=CTCConfig() if heard else None,
        attention=decoder,
    )
    model = Model(settings, vocabulary)
    left_over = place(_ours(tensors, mean), NAMES, model, parts={"decoder.": DECODER})
    return Converted(model.eval(), left_over)


def _ours(tensors: Mapping[str, Tensor], mean: str) -> dict[str, Tensor]:
    return {name: x - LOUDER if name == mean else x for name, x in tensors.items()}


def _encoder(conf: Mapping[str, Any]) -> ConformerConfig:
    c = settle(conf, FORMS, SUPPORTED, "encoder_conf")
    size = c["static_chunk_size"]
    return ConformerConfig(
        dim=c["output_size"],
        layers=c["num_blocks"],
        heads=c["attention_heads"],
        feed_forward_dim=c["linear_units"],
        kernel=c["cnn_module_kernel"],
        convolution="causal" if c["causal"] else "chunk",
        pad_input=c["causal"],
        dropout=c["dropout_rate"],
        attention_dropout=c["attention_dropout_rate"],
        chunks=(Chunk(size, 4 * size),) if size > 0 else CHUNKS if c["use_dynamic_chunk"] else (),
        subsampling=FACTORS[c["input_layer"]],
        subsampling_padding="valid",
        positions=POSITIONS[c["pos_enc_layer_type"]],
        macaron=c["macaron_style"],
        activation=c["activation_type"],
        norm=NORMS[c["cnn_module_norm"]],
        norm_epsilon=c["norm_eps"],
        norm_out=True,
        scale_input=True,
    )


def _tokenizer(path: Path, config: Mapping[str, Any], given: str | Path | None) -> Tokenizer:
    settings = config.get("tokenizer_conf") or {}
    table = settings.get("symbol_table_path") or config.get("symbol_table") or "units.txt"
    units = beside(path, table) or beside(path, "units.txt")
    if units is None:
        raise BundleError(f"{table}, the units that train.yaml names, are not found beside {path}")
    rows = [line.split() for line in units.read_text(encoding="utf-8").splitlines() if line.strip()]
    tokens = [unit for unit, _ in sorted(rows, key=lambda row: int(row[1]))]
    if config.get("tokenizer", "char") != "bpe":
        return characters(tokens[1:])
    name = settings.get("bpe_path")
    file = Path(given) if given else beside(path, name)
    if file is None or not file.is_file():
        raise BundleError(f"{file or name}: its SentencePiece model is not found; give --tokenizer")
    return subwords(file.read_bytes(), tokens[1:])
