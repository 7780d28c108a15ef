"""NeMo's transducers on random weights, decoded greedily: writes tests/golden/nemo-rnnt and nemo-tdt.

In an environment with torch and nemo_toolkit[asr]==2.7.3:
    PYTHONPATH=. python tools/golden/from_nemo_transducer.py
"""

from __future__ import annotations

from typing import Any

import nemo
import torch
from common import LENS, features, randomise, write
from from_nemo import CONFORMER, DIM, VOCABULARY, description
from nemo.collections.asr.modules import ConformerEncoder, RNNTDecoder, RNNTJoint
from nemo.collections.asr.parts.submodules.rnnt_greedy_decoding import GreedyRNNTInfer, GreedyTDTInfer
from torch import Tensor, nn

ENCODER = CONFORMER | {"n_layers": 1}
FORMS: dict[str, dict[str, Any]] = {
    "rnnt": {"layers": 2, "activation": "tanh", "durations": [], "quiet": 5.0},
    "tdt": {"layers": 1, "activation": "relu", "durations": [0, 1, 2, 3], "quiet": 9.0},
}
UNITS, HIDDEN, MAX_SYMBOLS = 12, 14, 5
ABOUT = """ConformerEncoder, RNNTDecoder and RNNTJoint of NeMo {version} (Apache 2.0) on random weights, in eval mode.

- `model.safetensors`: the tensors under their names in a .nemo archive's `model_weights.ckpt`.
- `config.yaml`: the parts of the archive's `model_config.yaml` that describe them.
- `io.safetensors`: `features` (B, T, 80), `feature_lens`; of each utterance alone `alone.I.encoder_out` (1, U, D) and
  `alone.I.tokens`, `alone.I.frames`, what {greedy} finds in it with at most {symbols} tokens a frame; `decoder_in`
  (B, S), `decoder_out`, `joint_logits` (B, 8, S + 1, V + D): the blank is the last token, durations stand behind it.

Written by `tools/golden/from_nemo_transducer.py`."""


class Whole(nn.Module):
    """The names of NeMo's EncDecRNNTModel."""

    def __init__(self, form: dict[str, Any]) -> None:
        super().__init__()
        size = len(VOCABULARY)
        self.encoder = ConformerEncoder(**ENCODER)
        self.decoder = RNNTDecoder(prednet=prednet(form), vocab_size=size)
        self.joint = RNNTJoint(
            jointnet=jointnet(form) | {"encoder_hidden": DIM, "pred_hidden": UNITS},
            num_classes=size,
            num_extra_outputs=len(form["durations"]),
            vocabulary=VOCABULARY,
            log_softmax=False,
        )


def prednet(form: dict[str, Any]) -> dict[str, Any]:
    return {"pred_hidden": UNITS, "pred_rnn_layers": form["layers"], "t_max": None, "dropout": 0.1}


def jointnet(form: dict[str, Any]) -> dict[str, Any]:
    return {"joint_hidden": HIDDEN, "activation": form["activation"], "dropout": 0.1}


def configuration(form: dict[str, Any]) -> dict[str, Any]:
    config = description("ConformerEncoder", ENCODER, hybrid=True)
    del config["aux_ctc"]
    config["decoder"]["prednet"] = prednet(form)
    config["joint"] |= {"jointnet": jointnet(form), "num_extra_outputs": len(form["durations"])}
    config["target"] = "nemo.collections.asr.models.rnnt_bpe_models.EncDecRNNTBPEModel"
    config["decoding"] = {"strategy": "greedy_batch", "greedy": {"max_symbols": MAX_SYMBOLS}}
    config["loss"] = {"loss_name": "default", "warprnnt_numba_kwargs": {"fastemit_lambda": 0.0}}
    if form["durations"]:
        config["decoding"] |= {"model_type": "tdt", "durations": form["durations"]}
        tdt = {"fastemit_lambda": 0.0, "durations": form["durations"], "sigma": 0.02, "omega": 0.1}
        config["loss"] = {"loss_name": "tdt", "tdt_kwargs": tdt}
    return config


def talk(model: Whole, x: Tensor, lens: Tensor, blank: int, quiet: float) -> None:
    """Let it hear how a frame differs from the average one, and say this and that, and often nothing."""
    y = model.encoder(audio_signal=x.transpose(1, 2), length=lens)[0].transpose(1, 2)[:, :30]
    for layer, louder in ((model.joint.enc, 4), (model.joint.pred, 4), (model.joint.joint_net[-1], 3)):
        layer.weight.mul_(louder)
    model.joint.enc.bias.sub_(model.joint.enc(y).mean((0, 1)))
    tokens = torch.arange(blank)[None].expand(2, -1)
    predicted = model.decoder(targets=tokens, target_length=torch.full((2,), blank))[0].transpose(1, 2)
    output = model.joint.joint_net[-1].bias
    output.sub_(model.joint.joint(y, predicted).mean((0, 1, 2)))
    output[blank] += quiet


@torch.inference_mode()
def golden(name: str, seed: int) -> None:
    form = FORMS[name]
    model = Whole(form).eval()
    randomise(model, seed)
    blank = len(VOCABULARY)
    model.decoder.prediction["embed"].weight[blank] = 0  # as it is in all checkpoints: it has no gradient
    x, lens = features(seed, LENS)
    talk(model, x, lens, blank, form["quiet"])
    values: dict[str, Tensor] = {"features": x, "feature_lens": lens}
    options = {"blank_index": blank, "max_symbols_per_step": MAX_SYMBOLS}
    if form["durations"]:
        greedy: Any = GreedyTDTInfer(model.decoder, model.joint, durations=form["durations"], **options)
    else:
        greedy = GreedyRNNTInfer(model.decoder, model.joint, **options)
    for i, length in enumerate(lens.tolist()):
        y, y_lens = model.encoder(audio_signal=x[i : i + 1, :length].transpose(1, 2), length=lens[i : i + 1])[
            :2
        ]
        ((found,),) = greedy(encoder_output=y, encoded_lengths=y_lens)
        values[f"alone.{i}.encoder_out"] = y.transpose(1, 2)
        values[f"alone.{i}.tokens"] = torch.as_tensor(found.y_sequence, dtype=torch.int64)
        values[f"alone.{i}.frames"] = torch.as_tensor(found.timestamp, dtype=torch.int64)
        print(name, found.y_sequence.tolist(), found.timestamp)
    tokens = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
    predicted = model.decoder(targets=tokens, target_length=torch.tensor([5, 5]))[0].transpose(1, 2)
    frames = torch.cat([values[f"alone.{i}.encoder_out"][:, :8] for i in range(2)])
    values |= {
        "decoder_in": tokens,
        "decoder_out": predicted,
        "joint_logits": model.joint.joint(frames, predicted),
    }
    about = ABOUT.format(version=nemo.__version__, greedy=type(greedy).__name__, symbols=MAX_SYMBOLS)
    write(f"nemo-{name}", weights=model.state_dict(), values=values, config=configuration(form), about=about)


if __name__ == "__main__":
    for number, one in enumerate(FORMS):
        golden(one, number)
