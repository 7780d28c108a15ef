"""NeMo's encoders on random weights: writes tests/golden/nemo-*.

In an environment with torch and nemo_toolkit[asr]==3.0.0; for Squeezeformer, which 3.0 has no more, 2.7.3:
    PYTHONPATH=. python tools/golden/from_nemo.py conformer fast-conformer fast-conformer-streaming
    PYTHONPATH=. python tools/golden/from_nemo.py squeezeformer
    PYTHONPATH=. python tools/golden/from_nemo.py conformer-streaming conformer-absolute
"""

from __future__ import annotations

import sys
from typing import Any

import nemo
import torch
from common import BINS, LENS, features, randomise, write
from nemo.collections.asr.modules import ConformerEncoder, ConvASRDecoder, RNNTDecoder, RNNTJoint
from torch import Tensor, nn

VOCABULARY = [f"▁{chr(97 + i)}" for i in range(10)]
DIM = 16
COMMON = {
    "feat_in": BINS,
    "feat_out": -1,
    "d_model": DIM,
    "ff_expansion_factor": 2,
    "self_attention_model": "rel_pos",
    "n_heads": 2,
    "att_context_size": [-1, -1],
    "untie_biases": True,
    "pos_emb_max_len": 500,
    "dropout": 0.1,
    "dropout_emb": 0.0,
    "dropout_att": 0.1,
}
CONFORMER = COMMON | {
    "n_layers": 3,
    "subsampling": "striding",
    "subsampling_factor": 4,
    "subsampling_conv_channels": -1,
    "xscaling": True,
    "conv_kernel_size": 7,
    "conv_norm_type": "batch_norm",
}
FAST = CONFORMER | {
    "subsampling": "dw_striding",
    "subsampling_factor": 8,
    "subsampling_conv_channels": 12,
    "causal_downsampling": False,
    "xscaling": False,
    "use_bias": False,
    "conv_kernel_size": 9,
}
STREAMING = FAST | {
    "causal_downsampling": True,
    "att_context_size": [[8, 3], [6, 1], [4, 0]],
    "att_context_style": "chunked_limited",
    "xscaling": True,
    "use_bias": True,
    "conv_norm_type": "layer_norm",
    "conv_context_size": "causal",
}
STREAMING_CONFORMER = STREAMING | {
    "subsampling": "striding",
    "subsampling_factor": 4,
    "subsampling_conv_channels": -1,
    "n_layers": 2,
    "untie_biases": False,
    "xscaling": False,
    "conv_kernel_size": 7,
}
ABSOLUTE = CONFORMER | {
    "self_attention_model": "abs_pos",
    "subsampling_factor": 8,
    "n_layers": 2,
    "conv_norm_type": "layer_norm",
}
SQUEEZEFORMER = COMMON | {
    "n_layers": 5,
    "subsampling": "dw_striding",
    "subsampling_factor": 4,
    "subsampling_conv_channels": 12,
    "adaptive_scale": True,
    "time_reduce_idx": 2,
    "time_recovery_idx": None,
    "xscaling": True,
    "conv_kernel_size": 7,
    "conv_norm_type": "batch_norm",
}
# 8 n + 1: of other lengths NeMo's causal subsampling makes a frame more, which sees little but the zeros at the end
STREAMED_LENS = (201, 121)
PREDICTOR = {"pred_hidden": 12, "pred_rnn_layers": 1, "dropout": 0.1}
JOINT = {"joint_hidden": 14, "activation": "relu", "dropout": 0.1}
ABOUT = """{kind} of NeMo {version} (Apache 2.0) on random weights, and its CTC layer{more}, in eval mode.

- `model.safetensors`: the tensors under their names in a .nemo archive's `model_weights.ckpt`.
- `config.yaml`: the parts of the archive's `model_config.yaml` that describe them.
- `io.safetensors`: `features` (B, T, 80), `feature_lens`; `encoder_out` (B, U, D), `encoder_out_lens` and
  `ctc_log_probs` (the blank is the last token) of the batch in full context; `alone.I.*`, those of each alone.
{rest}
Written by `tools/golden/from_nemo.py`."""
STREAMS = """- `chunkC_leftL.*`: masked to chunks of C frames with L frames before them (att_context_size [L, C - 1]);
  `streamC_leftL.encoder_out`: the first utterance step by step with caches, as NeMo's streaming buffer cuts it:
  1 + R (C - 1) frames, R the subsampling, then R C at a time with the R + 1 before them. These begin as zeros, whose
  first convolution is its bias: so `stream1_left4` departs from `chunk1_left4`, the others do not depart from theirs.
- `tail.*`: an utterance of 203 frames under the first context: NeMo's causal subsampling counts a frame more, which
  sees nothing but the last inputs and zeros.
"""
TRANSDUCER = """- `decoder_in` (B, S), `decoder_out`, `joint_logits` (B, U, S + 1, V): the transducer's, over
  `encoder_out`.
"""


class Whole(nn.Module):
    """The names of NeMo's EncDecCTCModel, or with `hybrid` those of EncDecHybridRNNTCTCModel."""

    def __init__(self, encoder: nn.Module, *, hybrid: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.ctc = ConvASRDecoder(feat_in=DIM, num_classes=len(VOCABULARY), vocabulary=VOCABULARY)
        if hybrid:
            self.ctc_decoder = self.ctc
            self.decoder = RNNTDecoder(prednet=dict(PREDICTOR), vocab_size=len(VOCABULARY))
            self.joint = RNNTJoint(
                jointnet=JOINT | {"encoder_hidden": DIM, "pred_hidden": PREDICTOR["pred_hidden"]},
                num_classes=len(VOCABULARY),
                vocabulary=VOCABULARY,
                log_softmax=False,
            )
        else:
            self.decoder = self.ctc


def run(model: Whole, x: Tensor, lens: Tensor) -> dict[str, Tensor]:
    y, y_lens = model.encoder(audio_signal=x.transpose(1, 2), length=lens)[:2]
    return {
        "encoder_out": y.transpose(1, 2),
        "encoder_out_lens": y_lens.to(torch.int64),
        "ctc_log_probs": model.ctc(encoder_output=y),
    }


def stream(encoder: Any, x: Tensor) -> Tensor:
    """(1, T, F) -> (1, U, D), cut as NeMo's streaming buffer cuts it."""
    c = encoder.streaming_cfg
    channel, time, channel_len = encoder.get_initial_cache_state(batch_size=1)
    drop, before = c.drop_extra_pre_encoded, c.pre_encode_cache_size[1]
    outputs, position, size = [], 0, c.chunk_size[0]
    while position < x.shape[1]:
        first = position == 0
        piece = x[:, 0 if first else max(0, position - before) : position + size]
        if not first and position < before:
            piece = nn.functional.pad(piece, (0, 0, before - position, 0))
        c.drop_extra_pre_encoded = 0 if first else drop
        y, _, channel, time, channel_len = encoder.cache_aware_stream_step(
            processed_signal=piece.transpose(1, 2),
            processed_signal_length=torch.tensor([piece.shape[1]]),
            cache_last_channel=channel,
            cache_last_time=time,
            cache_last_channel_len=channel_len,
            keep_all_outputs=True,
        )
        outputs.append(y.transpose(1, 2))
        position += size
        size = c.chunk_size[1]
    c.drop_extra_pre_encoded = drop
    return torch.cat(outputs, 1)


def streaming_values(model: Whole, x: Tensor, lens: Tensor, seed: int) -> dict[str, Tensor]:
    encoder, values = model.encoder, {}
    for left, right in STREAMING["att_context_size"]:
        encoder.set_default_att_context_size([left, right])
        name = f"{right + 1}_left{left}"
        for k, y in run(model, x, lens).items():
            values[f"chunk{name}.{k}"] = y
        values[f"stream{name}.encoder_out"] = stream(encoder, x[:1])
    encoder.set_default_att_context_size(STREAMING["att_context_size"][0])
    tail, tail_lens = features(seed + 100, LENS[:1])
    values["tail.features"] = tail
    for k, y in run(model, tail, tail_lens).items():
        values[f"tail.{k}"] = y
    return values


def transducer_values(model: Whole, y: Tensor) -> dict[str, Tensor]:
    tokens = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
    predicted, _, _ = model.decoder(targets=tokens, target_length=torch.tensor([5, 5]))  # (B, D, S + 1)
    logits = model.joint.joint(y[:, :8], predicted.transpose(1, 2))
    return {"decoder_in": tokens, "decoder_out": predicted.transpose(1, 2), "joint_logits": logits}


def description(kind: str, encoder: dict[str, Any], *, hybrid: bool) -> dict[str, Any]:
    modules = "nemo.collections.asr.modules"
    ctc = {
        "_target_": f"{modules}.ConvASRDecoder",
        "feat_in": DIM,
        "num_classes": len(VOCABULARY),
        "vocabulary": VOCABULARY,
    }
    models = "nemo.collections.asr.models"
    config: dict[str, Any] = {
        "sample_rate": 16000,
        "preprocessor": {
            "_target_": f"{modules}.AudioToMelSpectrogramPreprocessor",
            "sample_rate": 16000,
            "normalize": "NA" if hybrid else "per_feature",
            "window_size": 0.025,
            "window_stride": 0.01,
            "window": "hann",
            "features": BINS,
            "n_fft": 512,
            "dither": 1e-5,
            "pad_to": 0,
        },
        "encoder": {"_target_": f"{modules}.{kind}", **encoder},
        "decoder": ctc,
        "tokenizer": {"dir": "tokenizer", "type": "bpe", "model_path": "nemo:tokenizer.model"},
        "target": f"{models}.ctc_bpe_models.EncDecCTCModelBPE",
        "nemo_version": nemo.__version__,
    }
    if hybrid:
        config["decoder"] = {
            "_target_": f"{modules}.RNNTDecoder",
            "prednet": PREDICTOR,
            "vocab_size": len(VOCABULARY),
        }
        config["joint"] = {
            "_target_": f"{modules}.RNNTJoint",
            "jointnet": JOINT,
            "num_classes": len(VOCABULARY),
        }
        config["aux_ctc"] = {"ctc_loss_weight": 0.3, "decoder": ctc}
        config["target"] = f"{models}.hybrid_rnnt_ctc_bpe_models.EncDecHybridRNNTCTCBPEModel"
    return config


@torch.inference_mode()
def golden(name: str, seed: int) -> None:
    streaming, hybrid = name.endswith("streaming"), name == "fast-conformer-streaming"
    if name == "squeezeformer":
        from nemo.collections.asr.modules import SqueezeformerEncoder as Kind

        conf = SQUEEZEFORMER
    else:
        Kind = ConformerEncoder
        conf = {
            "conformer": CONFORMER,
            "conformer-absolute": ABSOLUTE,
            "conformer-streaming": STREAMING_CONFORMER,
            "fast-conformer": FAST,
            "fast-conformer-streaming": STREAMING,
        }[name]
    model = Whole(Kind(**conf), hybrid=hybrid).eval()
    randomise(model, seed)
    x, lens = features(seed, STREAMED_LENS if streaming else LENS)
    values: dict[str, Tensor] = {"features": x, "feature_lens": lens}
    if streaming:
        values |= streaming_values(model, x, lens, seed)
        model.encoder.att_context_style, model.encoder.att_context_size = "regular", [-1, -1]
    values |= run(model, x, lens)
    for i, length in enumerate(lens.tolist()):
        for k, y in run(model, x[i : i + 1, :length], lens[i : i + 1]).items():
            values[f"alone.{i}.{k}"] = y
    if hybrid:
        values |= transducer_values(model, values["encoder_out"])
    about = ABOUT.format(
        kind=Kind.__name__, version=nemo.__version__,
        more=" and transducer" if hybrid else "",
        rest=(STREAMS if streaming else "") + (TRANSDUCER if hybrid else ""),
    )  # fmt: skip
    weights = {k: v for k, v in model.state_dict().items() if not k.startswith("ctc.")}
    config = description(Kind.__name__, conf, hybrid=hybrid)
    write(f"nemo-{name}", weights=weights, values=values, config=config, about=about)


if __name__ == "__main__":
    for number, one in enumerate(sys.argv[1:]):
        golden(one, number)
