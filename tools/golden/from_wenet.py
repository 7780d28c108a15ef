"""WeNet's Conformers on random weights: writes tests/golden/wenet-conformer*.

WeNet is not on PyPI: put a checkout (commit 0154696, December 2025) on the path of an environment with torch, and
take out its imports of audio libraries and of Whisper (wenet/__init__.py, wenet/utils/common.py), unused here; with
torch 2.13, models/squeezeformer/conv2d.py must take Union and Optional from typing.
    PYTHONPATH=.:WENET python tools/golden/from_wenet.py                     # all
    PYTHONPATH=.:WENET python tools/golden/from_wenet.py conformer-offline   # some
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from common import BINS, features, randomise, write
from torch import Tensor, nn
from wenet.models.transformer.cmvn import GlobalCMVN
from wenet.models.transformer.ctc import CTC
from wenet.models.transformer.decoder import BiTransformerDecoder, TransformerDecoder
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


DECODER = {"attention_heads": 2, "linear_units": 24, "num_blocks": 2, "dropout_rate": 0.1}
DECODERS = {
    "attention": (TransformerDecoder, "transformer", DECODER),
    "attention-both-ways": (BiTransformerDecoder, "bitransformer", DECODER | {"r_num_blocks": 1}),
}
TEXTS = ([3, 4, 4, 5], [7, 2])  # of each utterance, without <sos/eos>
ATTENTION = """{kind} of WeNet (Apache 2.0, commit {commit}) on random weights, over its ConformerEncoder, in eval mode.

- `model.safetensors`, `config.yaml`: as in the other folders of WeNet.
- `io.safetensors`: `features`, `feature_lens`; of utterance I by itself: `alone.I.text` (S,), and
  `alone.I.decoder_log_probs` (S + 1, V) behind <sos/eos> and each of its tokens; `alone.I.reverse_log_probs`, of the
  right-to-left decoder, if there is one, for the text from its end.

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
    about = ABOUT.format(commit=COMMIT, which=which)
    save(name, model, values, description(conf), about)


def save(name: str, model: nn.Module, values: dict[str, Tensor], config: dict[str, Any], about: str) -> None:
    weights = {k: v for k, v in model.state_dict().items() if not k.endswith(".pe")}
    write(f"wenet-{name}", weights=weights, values=values, config=config, about=about)


@torch.inference_mode()
def attention(name: str, seed: int) -> None:
    kind, key, settings = DECODERS[name]
    conf = CONFIG | {"num_blocks": 1}
    encoder = ConformerEncoder(BINS, global_cmvn=GlobalCMVN(torch.zeros(BINS), torch.ones(BINS)), **conf)
    model = Whole(encoder, CTC(len(UNITS), encoder.output_size()))
    model.decoder = kind(len(UNITS), encoder.output_size(), **settings)
    model.eval()
    tables = {k: x.clone() for k, x in model.state_dict().items() if k.endswith(".pe")}
    randomise(model, seed)
    model.load_state_dict(model.state_dict() | tables)
    encoder.global_cmvn.istd.copy_(0.5 + encoder.global_cmvn.istd.abs())
    x, lens = features(seed)
    values, end = {"features": x, "feature_lens": lens}, len(UNITS) - 1
    for i, (length, text) in enumerate(zip(lens.tolist(), TEXTS, strict=True)):
        y, mask = model.encoder(x[i : i + 1, :length], lens[i : i + 1], -1, -1)
        ways = torch.tensor([[end, *text], [end, *reversed(text)]])
        left, right, _ = model.decoder(y, mask, ways[:1], torch.tensor([len(text) + 1]), ways[1:], 0.5)
        values[f"alone.{i}.text"] = torch.tensor(text)
        values[f"alone.{i}.decoder_log_probs"] = left[0].log_softmax(-1)
        if right.dim():
            values[f"alone.{i}.reverse_log_probs"] = right[0].log_softmax(-1)
    config = description(conf) | {"decoder": key, "decoder_conf": settings}
    config["model_conf"] = {"ctc_weight": 0.3, "lsm_weight": 0.1, "reverse_weight": 0.3}
    save(name, model, values, config, ATTENTION.format(kind=kind.__name__, commit=COMMIT))


def description(conf: dict[str, Any]) -> dict[str, Any]:
    return {
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


if __name__ == "__main__":
    for number, one in enumerate(CASES):
        if not sys.argv[1:] or one in sys.argv[1:]:
            golden(one, number)
    for number, one in enumerate(DECODERS, 20):
        if not sys.argv[1:] or one in sys.argv[1:]:
            attention(one, number)
