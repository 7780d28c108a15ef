"""ESPnet's checkpoints: `valid.acc.ave.pth` beside `config.yaml`, which has the tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from asr.convert.decoder import DECODER, attention, index, sos_eos
from asr.convert.files import beside, read_tensors, read_yaml
from asr.convert.place import ATTENTION, Converted, Rule, place
from asr.convert.variants import settle
from asr.convert.vocabulary import characters, subwords
from asr.encoders import BranchformerConfig, ConformerConfig, EBranchformerConfig, EncoderConfig
from asr.encoders.positions import LegacyPositions, Positions
from asr.encoders.subsampling import Factor
from asr.errors import BundleError
from asr.features import FeaturesConfig
from asr.heads import CTCConfig
from asr.model import Model, ModelConfig
from asr.tokenizer import Tokenizer

__all__ = ["CONFORMER", "convert"]

EPSILON = 1e-12  # of ESPnet's layer norms
FRONT: tuple[Rule, ...] = (
    (r"^encoder\.embed\.conv\.0\.", "encoder.front.stages.0.convolution."),
    (r"^encoder\.embed\.conv\.2\.", "encoder.front.stages.1.convolution."),
    (r"^encoder\.embed\.conv\.4\.", "encoder.front.stages.2.convolution."),
    (r"^encoder\.embed\.out\.(?:0\.)?", "encoder.front.project."),
    (r"^encoder\.encoders\.", "encoder.blocks."),
    (r"^encoder\.after_norm\.", "encoder.norm_out."),
    (r"\.norm_final\.", ".norm_out."),
    (r"\.w_1\.", ".project_in."),
    (r"\.w_2\.", ".project_out."),
    (r"^ctc\.ctc_lo\.", "heads.ctc.output."),
    *ATTENTION,
)
CONFORMER: tuple[Rule, ...] = (
    *FRONT,
    (r"\.self_attn\.", ".attention."),
    (r"\.norm_mha\.", ".norm_attention."),
    (r"\.norm_conv\.", ".norm_convolution."),
    (r"\.norm_ff_macaron\.", ".norm_feed_forward_in."),
    (r"\.norm_ff\.", ".norm_feed_forward_out."),
    (r"\.feed_forward_macaron\.", ".feed_forward_in."),
    (r"\.feed_forward\.", ".feed_forward_out."),
    (r"\.conv_module\.depthwise_conv\.", ".convolution.depthwise."),
    (r"\.conv_module\.pointwise_conv1\.", ".convolution.project_in."),
    (r"\.conv_module\.pointwise_conv2\.", ".convolution.project_out."),
    (r"\.conv_module\.norm\.", ".convolution.norm."),
)
"""ESPnet's names, which WeNet has kept."""

BRANCHES: tuple[Rule, ...] = (
    *FRONT,
    (r"\.norm_mha\.", ".branches.attention.norm."),
    (r"\.attn\.", ".branches.attention.layer."),
    (r"\.norm_mlp\.", ".branches.cgmlp.norm."),
    (r"\.cgmlp\.channel_proj1\.0\.", ".branches.cgmlp.layer.project_in."),
    (r"\.cgmlp\.csgu\.conv\.", ".branches.cgmlp.layer.gate.depthwise."),
    (r"\.cgmlp\.csgu\.linear\.", ".branches.cgmlp.layer.gate.project."),
    (r"\.cgmlp\.csgu\.", ".branches.cgmlp.layer.gate."),
    (r"\.cgmlp\.channel_proj2\.", ".branches.cgmlp.layer.project_out."),
    (r"\.merge_proj\.", ".merge.project."),
    (r"\.depthwise_conv_fusion\.", ".merge.depthwise."),
    (r"\.pooling_proj1\.(\w+)$", r".merge.weigh.attention.\1[0/2]"),
    (r"\.weight_proj1\.(\w+)$", r".merge.weigh.attention.\1[1/2]"),
    (r"\.pooling_proj2\.(\w+)$", r".merge.weigh.cgmlp.\1[0/2]"),
    (r"\.weight_proj2\.(\w+)$", r".merge.weigh.cgmlp.\1[1/2]"),
    (r"\.norm_ff_macaron\.", ".feed_forward_in.norm."),
    (r"\.norm_ff\.", ".feed_forward_out.norm."),
    (r"\.feed_forward_macaron\.", ".feed_forward_in.layer."),
    (r"\.feed_forward\.", ".feed_forward_out.layer."),
)

COMMON = {
    "output_size": 256, "attention_heads": 4, "dropout_rate": 0.1, "attention_dropout_rate": 0.0,
    "input_layer": "conv2d", "pos_enc_layer_type": "rel_pos", "zero_triu": False, "qk_norm": False,
    "max_pos_emb_len": LegacyPositions.longest,
}  # fmt: skip
POSITIONS: dict[str, Positions] = {
    "rel_pos": "relative",
    "legacy_rel_pos": "legacy",
    "abs_pos": "absolute",
}
FACTORS: dict[str, Factor] = {"conv2d": 4, "conv2d2": 2, "conv2d6": 6, "conv2d8": 8}
ATTENTIONS = ("rel_selfattn", "legacy_rel_selfattn", "selfattn")
"""Those that go with `POSITIONS`; ESPnet refuses any other pair of the two."""
SUPPORTED = {
    "pos_enc_layer_type": tuple(POSITIONS), "rel_pos_type": ("latest", "legacy"), "zero_triu": (False,),
    "qk_norm": (False,), "input_layer": tuple(FACTORS),
}  # fmt: skip
FORMS = COMMON | {
    "linear_units": 2048, "num_blocks": 6, "normalize_before": True, "concat_after": False, "macaron_style": False,
    "positionwise_layer_type": "linear", "rel_pos_type": "legacy", "selfattention_layer_type": "rel_selfattn",
    "activation_type": "swish", "use_cnn_module": True, "cnn_module_kernel": 31,
}  # fmt: skip
SUPPORTED_FORMS = SUPPORTED | {
    "normalize_before": (True,), "concat_after": (False,), "macaron_style": (True, False),
    "positionwise_layer_type": ("linear",), "selfattention_layer_type": ATTENTIONS,
    "activation_type": ("swish", "relu", "gelu"), "use_cnn_module": (True,),
}  # fmt: skip
BRANCHED = COMMON | {
    "rel_pos_type": "latest", "attention_layer_type": "rel_selfattn", "cgmlp_linear_units": 2048,
    "cgmlp_conv_kernel": 31, "use_linear_after_conv": False, "gate_activation": "identity", "num_blocks": 12,
    "use_attn": True, "use_cgmlp": True, "merge_method": "concat", "cgmlp_weight": 0.5, "attn_branch_drop_rate": 0.0,
    "use_ffn": False, "macaron_ffn": False, "ffn_activation_type": "swish", "linear_units": 2048,
    "positionwise_layer_type": "linear", "merge_conv_kernel": 3,
}  # fmt: skip
SUPPORTED_BRANCHED = SUPPORTED | {
    "attention_layer_type": ATTENTIONS, "use_attn": (True,), "use_cgmlp": (True,),
    "gate_activation": ("identity", "swish", "relu", "gelu"), "ffn_activation_type": ("swish", "relu", "gelu"),
    "positionwise_layer_type": ("linear",),
}  # fmt: skip
MERGES: dict[str, Literal["concatenation", "learned", "fixed"]] = {
    "concat": "concatenation",
    "learned_ave": "learned",
    "fixed_ave": "fixed",
}
FEATURES = "its features were ESPnet's (STFT centred on the frame, Slaney's mel scale); Rill computes Kaldi's"


def convert(path: str | Path, tokenizer: str | Path | None = None) -> Converted:
    """The model of a checkpoint; `tokenizer` is its SentencePiece model, where config.yaml's path leads nowhere.

    Raises BundleError: a file is missing or damaged, or the encoder is of a form that ours lack.
    """
    path = Path(path)
    tensors = read_tensors(path)
    config = read_yaml(path.with_name("config.yaml"))
    encoder, rules = _encoder(str(config.get("encoder")), config.get("encoder_conf") or {})
    tokens = _tokens(path, config)
    ends = [index(tokens, config.get(symbol, "<sos/eos>")) for symbol in ("sym_sos", "sym_eos")]
    decoder = attention(config, tokens=len(tokens), boundary=sos_eos(*ends), epsilon=EPSILON)
    heard = any(name.startswith("ctc.") for name in tensors)
    if not heard and decoder is None:
        raise BundleError(f"{path}: has no CTC layer, and its other heads have no counterpart here")
    settings = ModelConfig(
        features=FeaturesConfig(bins=_bins(config)),
        encoder=encoder,
        transducer=None,
        ctc=CTCConfig() if heard else None,
        attention=decoder,
    )
    model = Model(settings, _tokenizer(path, config, tokens, tokenizer))
    left_over = place(tensors, rules, model, parts={"decoder.": DECODER})
    return Converted(model.eval(), left_over, (FEATURES,))


def _bins(config: Mapping[str, Any]) -> int:
    front = config.get("frontend_conf") or {}
    return int(config.get("input_size") or front.get("n_mels", 80))


def _encoder(kind: str, conf: Mapping[str, Any]) -> tuple[EncoderConfig, tuple[Rule, ...]]:
    where = "encoder_conf"
    match kind:
        case "conformer":
            c = settle(conf, FORMS, SUPPORTED_FORMS, where)
            encoder = ConformerConfig(
                **_shape(c),
                feed_forward_dim=c["linear_units"],
                kernel=c["cnn_module_kernel"],
                macaron=c["macaron_style"],
                activation=c["activation_type"],
                norm="batch",
            )
            return encoder, CONFORMER
        case "branchformer":
            c = settle(conf, BRANCHED, SUPPORTED_BRANCHED, where)
            weights, drop = c["cgmlp_weight"], c["attn_branch_drop_rate"]
            branchformer = BranchformerConfig(
                **_shape(c),
                **_branches(c),
                merge=MERGES[c["merge_method"]],
                cgmlp_weights=tuple(weights) if isinstance(weights, list) else (weights,),
                branch_dropout=max(drop) if isinstance(drop, list) else drop,
            )
            return branchformer, BRANCHES
        case "e_branchformer":
            c = settle(conf, BRANCHED, SUPPORTED_BRANCHED, where)
            e_branchformer = EBranchformerConfig(
                **_shape(c),
                **_branches(c),
                feed_forward_dim=c["linear_units"],
                feed_forward=("macaron" if c["macaron_ffn"] else "single") if c["use_ffn"] else "none",
                activation=c["ffn_activation_type"],
                merge_kernel=c["merge_conv_kernel"],
            )
            return e_branchformer, BRANCHES
    raise BundleError(
        f"encoder: {kind!r} has no counterpart here; converted are: conformer, branchformer, e_branchformer"
    )


def _shape(c: Mapping[str, Any]) -> dict[str, Any]:
    """What the configurations of all encoders share."""
    legacy = "legacy_" if c["rel_pos_type"] == "legacy" and c["pos_enc_layer_type"] == "rel_pos" else ""
    positions = POSITIONS[legacy + c["pos_enc_layer_type"]]
    if positions == "legacy" and c["max_pos_emb_len"] != LegacyPositions.longest:
        raise BundleError(
            f"encoder_conf.max_pos_emb_len: {c['max_pos_emb_len']} has no counterpart here for legacy positions; "
            f"converted are: {LegacyPositions.longest}"
        )
    return {
        "dim": c["output_size"],
        "layers": c["num_blocks"],
        "heads": c["attention_heads"],
        "dropout": c["dropout_rate"],
        "attention_dropout": c["attention_dropout_rate"],
        "chunks": (),
        "subsampling": FACTORS[c["input_layer"]],
        "subsampling_padding": "valid",
        "positions": positions,
        "norm_epsilon": EPSILON,
        "norm_out": True,
        "scale_input": True,
    }


def _branches(c: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "cgmlp_dim": c["cgmlp_linear_units"],
        "kernel": c["cgmlp_conv_kernel"],
        "gate_linear": c["use_linear_after_conv"],
        "gate_activation": c["gate_activation"],
    }


def _tokens(path: Path, config: Mapping[str, Any]) -> list[str]:
    tokens = config.get("token_list")
    if isinstance(tokens, str):
        file = beside(path, tokens)
        if file is None:
            raise BundleError(f"{tokens}, the token list that config.yaml names, is not found beside {path}")
        tokens = file.read_text(encoding="utf-8").splitlines()
    if not tokens:
        raise BundleError(f"{path.with_name('config.yaml')}: has no token_list")
    return list(tokens)


def _tokenizer(
    path: Path, config: Mapping[str, Any], tokens: list[str], given: str | Path | None
) -> Tokenizer:
    if config.get("token_type") != "bpe":
        return characters(tokens[1:])
    file = Path(given) if given else beside(path, config.get("bpemodel"))
    if file is None or not file.is_file():
        raise BundleError(
            f"{file or config.get('bpemodel')}: its SentencePiece model is not found; give --tokenizer"
        )
    return subwords(file.read_bytes(), tokens[1:])
