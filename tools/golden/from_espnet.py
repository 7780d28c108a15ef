"""ESPnet's encoders on random weights: writes tests/golden/espnet-*.

In an environment with torch, and espnet==202511 and typeguard installed without their dependencies:
    PYTHONPATH=. python tools/golden/from_espnet.py                    # all
    PYTHONPATH=. python tools/golden/from_espnet.py conformer-legacy   # some
"""

from __future__ import annotations

import sys
from typing import Any

import espnet
import torch
from common import BINS, features, randomise, write
from espnet2.asr.ctc import CTC
from espnet2.asr.decoder.transformer_decoder import TransformerDecoder
from espnet2.asr.encoder.branchformer_encoder import BranchformerEncoder
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
from torch import Tensor, nn

TOKENS = ["<blank>", "<unk>", *(f"▁{chr(97 + i)}" for i in range(10)), "<sos/eos>"]
COMMON = {
    "output_size": 16,
    "attention_heads": 2,
    "num_blocks": 3,
    "dropout_rate": 0.1,
    "positional_dropout_rate": 0.1,
    "attention_dropout_rate": 0.1,
    "input_layer": "conv2d",
    "rel_pos_type": "latest",
    "pos_enc_layer_type": "rel_pos",
}
CONFORMER = {
    "linear_units": 24,
    "macaron_style": True,
    "selfattention_layer_type": "rel_selfattn",
    "activation_type": "swish",
    "use_cnn_module": True,
    "cnn_module_kernel": 7,
}
CGMLP = {"cgmlp_linear_units": 40, "cgmlp_conv_kernel": 7, "attention_layer_type": "rel_selfattn"}
E_BRANCHFORMER = {
    "linear_units": 24,
    "positionwise_layer_type": "linear",
    "use_ffn": True,
    "macaron_ffn": True,
    "merge_conv_kernel": 5,
}
ABSOLUTE = {"pos_enc_layer_type": "abs_pos", "input_layer": "conv2d6", "num_blocks": 2}
CASES = {
    "conformer": (ConformerEncoder, "conformer", COMMON | CONFORMER),
    "branchformer": (BranchformerEncoder, "branchformer", COMMON | CGMLP | {"merge_method": "concat"}),
    "branchformer-learned": (
        BranchformerEncoder,
        "branchformer",
        COMMON
        | CGMLP
        | {"merge_method": "learned_ave", "use_linear_after_conv": True, "gate_activation": "swish"},
    ),
    "branchformer-fixed": (
        BranchformerEncoder,
        "branchformer",
        COMMON | CGMLP | {"merge_method": "fixed_ave", "cgmlp_weight": [0.3, 0.5, 1.0]},
    ),
    "e-branchformer": (EBranchformerEncoder, "e_branchformer", COMMON | CGMLP | E_BRANCHFORMER),
    "e-branchformer-plain": (
        EBranchformerEncoder,
        "e_branchformer",
        COMMON | CGMLP | {"use_ffn": False, "input_layer": "conv2d8", "merge_conv_kernel": 3},
    ),
    "conformer-legacy": (ConformerEncoder, "conformer", COMMON | CONFORMER | {"rel_pos_type": "legacy"}),
    "conformer-absolute": (
        ConformerEncoder,
        "conformer",
        COMMON
        | CONFORMER
        | ABSOLUTE
        | {"selfattention_layer_type": "selfattn", "macaron_style": False, "activation_type": "relu"},
    ),
    "branchformer-legacy": (
        BranchformerEncoder,
        "branchformer",
        COMMON | CGMLP | {"rel_pos_type": "legacy", "input_layer": "conv2d2", "num_blocks": 2},
    ),
    "e-branchformer-absolute": (
        EBranchformerEncoder,
        "e_branchformer",
        COMMON
        | CGMLP
        | E_BRANCHFORMER
        | ABSOLUTE
        | {"attention_layer_type": "selfattn", "macaron_ffn": False},
    ),
}
SEEDS = (0, *range(3, 12))
DECODER = {"attention_heads": 2, "linear_units": 24, "num_blocks": 2, "dropout_rate": 0.1}
TEXTS = ([12, 3, 4, 4, 5], [12, 7, 2])  # of each utterance, behind <sos/eos>
ABOUT = """{kind} of ESPnet {version} (Apache 2.0) on random weights, and its CTC layer, in eval mode and full context.

- `model.safetensors`: the tensors under their names in an ESPnet checkpoint (`valid.acc.ave.pth`).
- `config.yaml`: the part of ESPnet's `config.yaml` that describes them.
- `io.safetensors`: `features` (B, T, 80), `feature_lens`; `encoder_out`, `encoder_out_lens` and `ctc_log_probs` of the
  batch; `alone.I.*`, the same of utterance I by itself. ESPnet's convolutions read the padding of shorter utterances,
  so the second row of the batch differs from `alone.1`.

Written by `tools/golden/from_espnet.py`."""


class Whole(nn.Module):
    """The names of ESPnetASRModel."""

    def __init__(self, encoder: nn.Module, ctc: CTC) -> None:
        super().__init__()
        self.encoder, self.ctc = encoder, ctc


def run(model: Whole, x: Tensor, lens: Tensor) -> dict[str, Tensor]:
    y, y_lens, _ = model.encoder(x.clone(), lens)
    return {"encoder_out": y, "encoder_out_lens": y_lens, "ctc_log_probs": model.ctc.log_softmax(y)}


ATTENTION = """TransformerDecoder of ESPnet {version} (Apache 2.0), random weights, over a ConformerEncoder, eval mode.

- `model.safetensors`, `config.yaml`: as in the other folders of ESPnet.
- `io.safetensors`: `features`, `feature_lens`; of utterance I by itself: `alone.I.text` (S,), which begins with
  <sos/eos>, and `alone.I.decoder_log_probs` (S, V), of the tokens that follow.

Written by `tools/golden/from_espnet.py`."""


def attention(seed: int) -> None:
    conf = COMMON | CONFORMER | {"num_blocks": 1}
    model = Whole(ConformerEncoder(BINS, **conf), CTC(len(TOKENS), conf["output_size"]))
    model.decoder = TransformerDecoder(len(TOKENS), conf["output_size"], **DECODER)
    model.eval()
    randomise(model, seed)
    x, lens = features(seed)
    values = {"features": x, "feature_lens": lens}
    for i, (length, text) in enumerate(zip(lens.tolist(), TEXTS, strict=True)):
        y, y_lens, _ = model.encoder(x[i : i + 1, :length].clone(), lens[i : i + 1])
        logits, _ = model.decoder(y, y_lens, torch.tensor([text]), torch.tensor([len(text)]))
        values[f"alone.{i}.text"] = torch.tensor(text)
        values[f"alone.{i}.decoder_log_probs"] = logits[0].log_softmax(-1)
    config = description("conformer", conf) | {"decoder": "transformer", "decoder_conf": DECODER}
    config["model_conf"] = {"ctc_weight": 0.3, "lsm_weight": 0.1}
    about = ATTENTION.format(version=espnet.__version__)
    write("espnet-attention", weights=model.state_dict(), values=values, config=config, about=about)


def description(key: str, conf: dict[str, Any]) -> dict[str, Any]:
    return {
        "frontend": "default",
        "frontend_conf": {"fs": "16k", "n_fft": 512, "hop_length": 160},
        "normalize": None,
        "encoder": key,
        "encoder_conf": conf,
        "decoder": None,
        "model_conf": {"ctc_weight": 1.0},
        "token_type": "char",
        "token_list": TOKENS,
    }


@torch.inference_mode()
def main() -> None:
    if not sys.argv[1:] or "attention" in sys.argv[1:]:
        attention(20)
    for seed, (name, (kind, key, conf)) in zip(SEEDS, CASES.items(), strict=True):
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        model = Whole(kind(BINS, **conf), CTC(len(TOKENS), conf["output_size"])).eval()
        randomise(model, seed)
        x, lens = features(seed)
        values = {"features": x, "feature_lens": lens, **run(model, x, lens)}
        for i, length in enumerate(lens.tolist()):
            for k, y in run(model, x[i : i + 1, :length], lens[i : i + 1]).items():
                values[f"alone.{i}.{k}"] = y
        config = description(key, conf)
        about = ABOUT.format(kind=kind.__name__, version=espnet.__version__)
        write(f"espnet-{name}", weights=model.state_dict(), values=values, config=config, about=about)


if __name__ == "__main__":
    main()
