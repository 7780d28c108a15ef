"""WeNet's Conformers on random weights: writes tests/golden/wenet-conformer*.

WeNet is not on PyPI: put a checkout (commit 0154696, December 2025) on the path of an environment with torch, and
take out its imports of audio libraries and of Whisper (wenet/__init__.py, wenet/utils/common.py), unused here; with
torch 2.13, models/squeezeformer/conv2d.py must take Union and Optional from typing.
    PYTHONPATH=.:WENET python tools/golden/from_wenet.py                     # all
    PYTHONPATH=.:WENET python tools/golden/from_wenet.py conformer-offline   # some
"""

from __future__ import annotations

import sys

import torch
from common import BINS, features, randomise, write
from torch import Tensor, nn
from wenet.models.transformer.cmvn import GlobalCMVN
from wenet.models.transformer.ctc import CTC
from wenet.models.transformer.encoder import ConformerEncoder

COMMIT = "015469960db73eb19c49a48c020d5ac9db69bae5"
UNITS = ["<blank>", "<unk>", *(chr(0x4E00 + i) for i in range(10)), "<sos/eos>"]
CHUNKS = ((4, 2), (8, 1))  # output frames, and chunks of left context
CONFIG = {
    "output_size": 16,
    "attention_heads": 2,
    "linear_units": 24,
    "num_blocks": 3,
    "dropout_rate": 0.1,
    "positional_dropout_rate": 0.1,
    "attention_dropout_rate": 0.1,
    "input_layer": "conv2d",
    "normalize_before": True,
    "cnn_module_kernel": 8,
    "use_cnn_module": True,
    "activation_type": "swish",
    "pos_enc_layer_type": "rel_pos",
    "selfattention_layer_type": "rel_selfattn",
    "causal": True,
    "use_dynamic_chunk": True,
    "cnn_module_norm": "layer_norm",
    "use_dynamic_left_chunk": False,
}
OFFLINE = {
    "causal": False,
    "use_dynamic_chunk": False,
    "cnn_module_norm": "batch_norm",
    "cnn_module_kernel": 7,
    "input_layer": "conv2d6",
    "num_blocks": 2,
}
ABSOLUTE = {
    "pos_enc_layer_type": "abs_pos",
    "selfattention_layer_type": "selfattn",
    "macaron_style": False,
    "activation_type": "relu",
    "cnn_module_norm": "batch_norm",
    "static_chunk_size": 4,
    "use_dynamic_chunk": False,
    "num_blocks": 2,
}
CASES = {
    "conformer": ({}, "as `train_u2++_conformer.yaml` has it", CHUNKS),
    "conformer-offline": (OFFLINE, "as its `train_conformer.yaml` have it, subsampled by 6", ()),
    "conformer-absolute": (
        ABSOLUTE,
        "with absolute positions, batch norm, a static chunk and no macaron",
        CHUNKS[:1],
    ),
}
ABOUT = """ConformerEncoder of WeNet (Apache 2.0, commit {commit}), {which}, on
random weights, with its global CMVN and CTC layer, in eval mode.

- `model.safetensors`: the tensors under their names in a WeNet checkpoint (`final.pt`).
- `config.yaml`: the part of WeNet's `train.yaml` that describes them; `units` is its `units.txt`.
- `io.safetensors`: `features` (B, T, 80), `feature_lens`. `encoder_out`, `encoder_out_lens`, `ctc_log_probs` of the
  batch in full context; `alone.I.*`, the same of utterance I by itself; `chunkC_leftL.*`, masked to chunks of C output
  frames with L chunks before them; `streamC_leftL.encoder_out`, the first utterance step by step with caches.

Written by `tools/golden/from_wenet.py`."""


class Whole(nn.Module):
    """The names of WeNet's ASRModel."""

    def __init__(self, encoder: nn.Module, ctc: CTC) -> None:
        super().__init__()
        self.encoder, self.ctc = encoder, ctc


def run(model: Whole, x: Tensor, lens: Tensor, chunk: int = -1, left: int = -1) -> dict[str, Tensor]:
    y, mask = model.encoder(x, lens, chunk, left)
    return {
        "encoder_out": y,
        "encoder_out_lens": mask.squeeze(1).sum(1),
        "ctc_log_probs": model.ctc.log_softmax(y),
    }


@torch.inference_mode()
def golden(name: str, seed: int) -> None:
    changes, which, chunks = CASES[name]
    conf = CONFIG | changes
    cmvn = GlobalCMVN(torch.zeros(BINS), torch.ones(BINS))
    encoder = ConformerEncoder(BINS, global_cmvn=cmvn, **conf)
    model = Whole(encoder, CTC(len(UNITS), encoder.output_size())).eval()
    table = encoder.embed.pos_enc.pe.clone()
    randomise(model, seed)
    cmvn.istd.copy_(0.5 + cmvn.istd.abs())
    encoder.embed.pos_enc.pe.copy_(table)
    x, lens = features(seed)
    values = {"features": x, "feature_lens": lens, **run(model, x, lens)}
    for i, length in enumerate(lens.tolist()):
        for k, y in run(model, x[i : i + 1, :length], lens[i : i + 1]).items():
            values[f"alone.{i}.{k}"] = y
    for chunk, left in chunks:
        for k, y in run(model, x, lens, chunk, left).items():
            values[f"chunk{chunk}_left{left}.{k}"] = y
        y, _ = encoder.forward_chunk_by_chunk(x[:1], chunk, left)
        values[f"stream{chunk}_left{left}.encoder_out"] = y
    weights = {k: v for k, v in model.state_dict().items() if not k.endswith("pos_enc.pe")}
    config = {
        "input_dim": BINS,
        "output_dim": len(UNITS),
        "encoder": "conformer",
        "encoder_conf": conf,
        "ctc": "ctc",
        "ctc_conf": {"ctc_blank_id": 0},
        "tokenizer": "char",
        "tokenizer_conf": {"symbol_table_path": "units.txt"},
        "cmvn": "global_cmvn",
        "model": "asr_model",
        "model_conf": {"ctc_weight": 1.0},
        "dataset_conf": {"fbank_conf": {"num_mel_bins": BINS, "frame_shift": 10, "frame_length": 25}},
        "units": UNITS,
    }
    about = ABOUT.format(commit=COMMIT, which=which)
    write(f"wenet-{name}", weights=weights, values=values, config=config, about=about)


if __name__ == "__main__":
    for number, one in enumerate(CASES):
        if not sys.argv[1:] or one in sys.argv[1:]:
            golden(one, number)
