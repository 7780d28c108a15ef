"""The attention decoders of ESPnet and WeNet, which has kept its names: settings and tensors -> ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from asr.convert.place import ATTENTION, Rule
from asr.convert.variants import settle
from asr.errors import BundleError
from asr.heads import AttentionConfig

__all__ = ["DECODER", "attention", "index", "sos_eos"]

DECODER: tuple[Rule, ...] = (
    (r"^decoder\.right_decoder\.", "heads.attention.reverse_decoder."),
    (r"^decoder\.(?:left_decoder\.)?", "heads.attention.decoder."),
    (r"\.embed\.0\.", ".embedding."),
    (r"\.decoders\.", ".layers."),
    (r"\.self_attn\.", ".self_attention."),
    (r"\.src_attn\.linear_q\.", ".cross_attention.project_query."),
    (r"\.src_attn\.linear_k\.(\w+)$", r".cross_attention.project_memory.\1[0/2]"),
    (r"\.src_attn\.linear_v\.(\w+)$", r".cross_attention.project_memory.\1[1/2]"),
    (r"\.src_attn\.", ".cross_attention."),
    (r"\.norm1\.", ".norm_self."),
    (r"\.norm2\.", ".norm_cross."),
    (r"\.norm3\.", ".norm_feed_forward."),
    (r"\.w_1\.", ".project_in."),
    (r"\.w_2\.", ".project_out."),
    (r"\.after_norm\.", ".norm_out."),
    (r"\.output_layer\.", ".output."),
    *ATTENTION,
)
"""For names that begin with `decoder.`"""

KINDS = ("transformer", "bitransformer")
FORMS = {
    "attention_heads": 4, "linear_units": 2048, "num_blocks": 6, "r_num_blocks": 0, "dropout_rate": 0.1,
    "self_attention_dropout_rate": 0.0, "src_attention_dropout_rate": 0.0, "input_layer": "embed",
    "use_output_layer": True, "normalize_before": True, "concat_after": False, "layer_drop_rate": 0.0,
    "qk_norm": False, "src_attention": True, "query_bias": True, "key_bias": True, "value_bias": True,
    "src_query_bias": True, "src_key_bias": True, "src_value_bias": True, "activation_type": "relu",
    "layer_norm_type": "layer_norm", "norm_eps": 1e-5, "n_kv_head": None, "head_dim": None, "mlp_bias": True,
    "mlp_type": "position_wise_feed_forward",
}  # fmt: skip
SUPPORTED = {
    "input_layer": ("embed",), "use_output_layer": (True,), "normalize_before": (True,), "concat_after": (False,),
    "qk_norm": (False,), "src_attention": (True,), "query_bias": (True,), "key_bias": (True,), "value_bias": (True,),
    "src_query_bias": (True,), "src_key_bias": (True,), "src_value_bias": (True,), "activation_type": ("relu",),
    "layer_norm_type": ("layer_norm",), "n_kv_head": (None,), "head_dim": (None,), "mlp_bias": (True,),
    "mlp_type": ("position_wise_feed_forward",),
}  # fmt: skip


def attention(
    config: Mapping[str, Any], *, tokens: int, boundary: int, epsilon: float | None = None
) -> AttentionConfig | None:
    """The decoder that a peer's configuration describes; None where it has none, or one of another kind.

    tokens: of the vocabulary; boundary: the one that begins and ends a text; epsilon: of its norms, if the peer has but
    one. Raises BundleError for a form that ours lacks.
    """
    if config.get("decoder") not in KINDS:
        return None
    c = settle(config.get("decoder_conf") or {}, FORMS, SUPPORTED, "decoder_conf")
    settings = config.get("model_conf") or {}
    if not 0 <= boundary < tokens:
        raise BundleError(
            f"the token that begins and ends a text is {boundary}, and there are {tokens} tokens"
        )
    return AttentionConfig(
        layers=c["num_blocks"],
        heads=c["attention_heads"],
        feed_forward_dim=c["linear_units"],
        dropout=c["dropout_rate"],
        attention_dropout=c["src_attention_dropout_rate"],
        label_smoothing=settings.get("lsm_weight", 0.0),
        reverse_layers=c["r_num_blocks"] if config["decoder"] == "bitransformer" else 0,
        reverse_weight=settings.get("reverse_weight", 0.0),
        sos_eos=boundary,
        norm_epsilon=c["norm_eps"] if epsilon is None else epsilon,
    )


def sos_eos(begin: int, end: int) -> int:
    """Raises BundleError: texts begin with one token and end with another."""
    if begin != end:
        raise BundleError(
            f"texts begin with token {begin} and end with token {end}; converted are decoders for which it is one"
        )
    return begin


def index(tokens: Sequence[str], symbol: str) -> int:
    """Where a symbol stands; the last token where it is not listed, as ESPnet has it."""
    return tokens.index(symbol) if symbol in tokens else len(tokens) - 1
