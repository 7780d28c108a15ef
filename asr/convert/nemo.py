"""NeMo's checkpoints: a .nemo archive of `model_config.yaml`, `model_weights.ckpt` and the tokenizer's files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from asr.convert.files import read_archive, read_tensors, read_yaml
from asr.convert.nemo_transducer import TRANSDUCER, transducer
from asr.convert.place import ATTENTION, Converted, Rule, place
from asr.convert.variants import settle
from asr.convert.vocabulary import characters, pieces_of, subwords
from asr.encoders import Chunk, ConformerConfig, EncoderConfig, FastConformerConfig, SqueezeformerConfig
from asr.encoders.norm import Norm
from asr.encoders.positions import Positions
from asr.errors import BundleError
from asr.features import FeaturesConfig
from asr.heads import CTCConfig
from asr.model import Model, ModelConfig
from asr.tokenizer import Tokenizer

__all__ = ["convert"]

FEATURES = "its features were NeMo's (Slaney's mel scale, Hann window, normalize: {}); Rill computes Kaldi's"
CTC = (r"^(?:ctc_)?decoder\.decoder_layers\.0\.", "heads.ctc.output.")
FRONT = (r"^encoder\.pre_encode\.out\.", "encoder.front.project.")
MODULES: tuple[Rule, ...] = (
    (r"\.self_attn\.", ".attention."),
    (r"\.norm_self_att\.", ".norm_attention."),
    (r"\.norm_conv\.", ".norm_convolution."),
    (r"\.conv\.pointwise_conv1\.", ".convolution.project_in."),
    (r"\.conv\.depthwise_conv\.", ".convolution.depthwise."),
    (r"\.conv\.batch_norm\.", ".convolution.norm."),
    (r"\.conv\.pointwise_conv2\.", ".convolution.project_out."),
    (r"\.linear1\.", ".project_in."),
    (r"\.linear2\.", ".project_out."),
    *ATTENTION,
)
CONFORMER: tuple[Rule, ...] = (
    CTC,
    FRONT,
    (r"^encoder\.layers\.", "encoder.blocks."),
    (r"feed_forward1\.", "feed_forward_in."),
    (r"feed_forward2\.", "feed_forward_out."),
    *MODULES,
)
SQUEEZEFORMER: tuple[Rule, ...] = (
    CTC,
    FRONT,
    (r"^encoder\.pre_ln\.", "encoder.norm_in."),
    (r"\.self_attn_scale\.", ".scale_attention."),
    (r"\.conv_scale\.", ".scale_convolution."),
    (r"\.feed_forward(\d)_scale\.", r".scale_feed_forward\1."),
    *MODULES,
)

COMMON = {
    "subsampling_factor": 4, "subsampling_conv_channels": -1, "ff_expansion_factor": 4, "n_heads": 4, "feat_out": -1,
    "self_attention_model": "rel_pos", "att_context_size": None, "xscaling": True, "conv_kernel_size": 31,
    "conv_norm_type": "batch_norm", "dropout": 0.1, "dropout_att": 0.0,
}  # fmt: skip
FORMS = COMMON | {
    "causal_downsampling": False, "subsampling": "striding", "reduction": None, "att_context_style": "regular",
    "conv_context_size": None, "conv_context_style": "regular", "use_bias": True,
}  # fmt: skip
SQUEEZED = COMMON | {
    "subsampling": "dw_striding", "adaptive_scale": True, "time_reduce_idx": None, "time_recovery_idx": None
}  # fmt: skip
NORMS: dict[str, Norm] = {"batch_norm": "batch", "layer_norm": "layer"}
POSITIONS: dict[str, Positions] = {"rel_pos": "relative", "abs_pos": "absolute"}
SUPPORTED = {"self_attention_model": ("rel_pos",), "conv_norm_type": tuple(NORMS)}
SUPPORTED_FORMS = SUPPORTED | {
    "self_attention_model": tuple(POSITIONS),
    "subsampling": ("striding", "dw_striding"), "subsampling_factor": (2, 4, 8), "reduction": (None,),
    "att_context_style": ("regular", "chunked_limited"), "conv_context_style": ("regular",), "use_bias": (True, False),
}  # fmt: skip
SUPPORTED_SQUEEZED = SUPPORTED | {"subsampling": ("dw_striding",), "subsampling_factor": (4,)}


def convert(path: str | Path, tokenizer: str | Path | None = None) -> Converted:
    """The model of an archive; `tokenizer` is a SentencePiece model in place of the archive's own.

    Raises BundleError: the archive lacks a file or is damaged, or the encoder or a head is of a form that ours lack.
    """
    path = Path(path)
    files = read_archive(path)
    for name in ("model_config.yaml", "model_weights.ckpt"):
        if name not in files:
            raise BundleError(f"{path}: {name} is missing in the archive")
    config = read_yaml(f"{path}/model_config.yaml", files["model_config.yaml"])
    tensors = read_tensors(f"{path}/model_weights.ckpt", files["model_weights.ckpt"])
    ctc = CTCConfig() if any(name.endswith("decoder_layers.0.bias") for name in tensors) else None
    head, tensors = transducer(config, tensors)
    if ctc is None and head is None:
        heads = ", ".join(sorted(name for name in tensors if not name.startswith(("encoder.", "preproc"))))
        raise BundleError(f"{path}: has neither CTC nor transducer, and no other head is converted: {heads}")
    tensors = {name: _blank_first(name, tensor) for name, tensor in tensors.items()}
    conf = config.get("encoder") or {}
    encoder, rules = _encoder(conf)
    model = Model(
        ModelConfig(
            features=FeaturesConfig(bins=int(conf["feat_in"])),
            encoder=encoder,
            transducer=head,
            ctc=ctc,
        ),
        _tokenizer(path, config, files, tokenizer),
    )
    left_over = place(tensors, (*TRANSDUCER, *rules), model)
    note = FEATURES.format((config.get("preprocessor") or {}).get("normalize"))
    return Converted(model.eval(), left_over, (note,))


def _blank_first(name: str, tensor: Tensor) -> Tensor:
    """NeMo's blank is the last token, ours the first."""
    return tensor.roll(1, 0) if ".decoder_layers.0." in name else tensor


def _encoder(conf: Mapping[str, Any]) -> tuple[EncoderConfig, tuple[Rule, ...]]:
    kind = str(conf.get("_target_")).rsplit(".", 1)[-1]
    if conf.get("self_attention_model") == "rel_pos_local_attn":
        raise BundleError(
            "encoder.self_attention_model: rel_pos_local_attn has no counterpart here; its weights are those of "
            'rel_pos: in NeMo, change_attention_model("rel_pos") and save_to a new archive'
        )
    match kind:
        case "ConformerEncoder":
            return _conformer(settle(conf, FORMS, SUPPORTED_FORMS, "encoder"))
        case "SqueezeformerEncoder":
            return _squeezeformer(settle(conf, SQUEEZED, SUPPORTED_SQUEEZED, "encoder"))
    raise BundleError(
        f"encoder._target_: {kind} has no counterpart here; converted are: ConformerEncoder, SqueezeformerEncoder"
    )


def _shape(c: Mapping[str, Any]) -> dict[str, Any]:
    """What the configurations of both encoders share."""
    if c["feat_out"] not in (-1, c["d_model"]):
        raise BundleError(
            f"encoder.feat_out: {c['feat_out']}: a projection of the output has no counterpart here"
        )
    return {
        "dim": c["d_model"],
        "layers": c["n_layers"],
        "heads": c["n_heads"],
        "feed_forward_dim": c["d_model"] * c["ff_expansion_factor"],
        "kernel": c["conv_kernel_size"],
        "dropout": c["dropout"],
        "attention_dropout": c["dropout_att"],
        "subsampling_channels": max(0, c["subsampling_conv_channels"]),
        "norm": NORMS[c["conv_norm_type"]],
        "scale_input": c["xscaling"],
    }


def _conformer(c: Mapping[str, Any]) -> tuple[EncoderConfig, tuple[Rule, ...]]:
    kernel, separable = c["conv_kernel_size"], c["subsampling"] == "dw_striding"
    causal = c["conv_context_size"] in ("causal", [kernel - 1, 0])
    if not causal and c["conv_context_size"] not in (None, [kernel // 2, kernel // 2]):
        raise BundleError(
            f"encoder.conv_context_size: {c['conv_context_size']}: neither causal nor symmetric"
        )
    config = (FastConformerConfig if separable else ConformerConfig)(
        **_shape(c),
        subsampling=c["subsampling_factor"],
        subsampling_padding="causal" if c["causal_downsampling"] else "same",
        subsampling_separable=separable,
        convolution="causal" if causal else "chunk",
        chunks=_chunks(c),
        positions=POSITIONS[c["self_attention_model"]],
        bias=c["use_bias"],
    )
    return config, (*_front(separable), *CONFORMER)


def _chunks(c: Mapping[str, Any]) -> tuple[Chunk, ...]:
    """[left, right] contexts as chunks of right + 1 frames. Unlimited ones are full context, which is always there."""
    contexts = c["att_context_size"] or [[-1, -1]]
    contexts = contexts if isinstance(contexts[0], list) else [contexts]
    contexts = [(left, right) for left, right in contexts if (left, right) != (-1, -1)]
    for left, right in contexts:
        if min(left, right) < 0 or (c["att_context_style"] == "regular" and right > 0):
            raise BundleError(
                f"encoder.att_context_size: [{left}, {right}] of style {c['att_context_style']} has no counterpart "
                "here; converted are limited contexts of style chunked_limited, and [left, 0]"
            )
    return tuple(
        sorted(
            (Chunk(right + 1, left - left % (right + 1)) for left, right in contexts),
            key=lambda chunk: chunk.frames,
        )
    )


def _squeezeformer(c: Mapping[str, Any]) -> tuple[EncoderConfig, tuple[Rule, ...]]:
    layers, reduce_at = c["n_layers"], c["time_reduce_idx"]
    if reduce_at is None:
        raise BundleError(
            "encoder.time_reduce_idx: a Squeezeformer without half rate has no counterpart here"
        )
    recover_at = layers - 1 if c["time_recovery_idx"] is None else c["time_recovery_idx"]
    half = f"encoder.blocks.{reduce_at}."
    rules = [
        (r"^encoder\.time_reduce_layer\.dw_conv\.", f"{half}depthwise."),
        (r"^encoder\.time_reduce_layer\.pw_conv\.", f"{half}pointwise."),
        (r"^encoder\.time_recovery_layer\.", f"{half}recover."),
    ]
    for n in range(layers):
        inner = f"{half}blocks.{n - reduce_at}."
        outer = f"encoder.blocks.{n if n < reduce_at else n - (recover_at - reduce_at) + 1}."
        rules.append((rf"^encoder\.layers\.{n}\.", inner if reduce_at <= n < recover_at else outer))
    config = SqueezeformerConfig(**_shape(c), reduce_at=reduce_at, recover_at=recover_at, chunks=())
    return config, (*_front(separable=True), *rules, *SQUEEZEFORMER)


def _front(separable: bool) -> tuple[Rule, ...]:
    """The subsampling's modules stand in one sequence with its activations: which number is which stage's layer."""
    name, rules = r"^encoder\.pre_encode\.conv\.{}\.", []
    for stage in range(4):
        first = 3 * stage - 1 if separable and stage else 2 * stage
        rules.append((name.format(first), f"encoder.front.stages.{stage}.convolution."))
        if separable and stage:
            rules.append((name.format(first + 1), f"encoder.front.stages.{stage}.pointwise."))
    return tuple(rules)


def _tokenizer(
    path: Path, config: Mapping[str, Any], files: Mapping[str, bytes], given: str | Path | None
) -> Tokenizer:
    settings = config.get("tokenizer") or {}
    if given is None and not settings:
        labels = config.get("labels") or (config.get("decoder") or {}).get("vocabulary")
        if not labels:
            raise BundleError(f"{path}: model_config.yaml names neither a tokenizer nor labels")
        return characters(labels)
    name = str(settings.get("model_path") or "").removeprefix("nemo:")
    if given is None and name not in files:
        raise BundleError(
            f"{path}: has no SentencePiece model {name!r} (tokenizer.type: {settings.get('type')}); give --tokenizer"
        )
    model = files[name] if given is None else Path(given).read_bytes()
    return subwords(model, pieces_of(model))
