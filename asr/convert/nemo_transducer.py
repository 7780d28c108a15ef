"""NeMo's transducers: RNNTDecoder (an LSTM) and RNNTJoint, with durations (TDT) or without."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from asr.convert.place import Rule
from asr.errors import BundleError
from asr.heads import TDTConfig, TransducerConfig
from asr.heads.predictors import LSTMConfig
from asr.losses.transducer import Activation

__all__ = ["TRANSDUCER", "transducer"]

EMBEDDING = "decoder.prediction.embed.weight"
LSTM = "decoder.prediction.dec_rnn.lstm."
OUTPUT = re.compile(r"^joint\.joint_net\.\d+\.(weight|bias)$")
TRANSDUCER: tuple[Rule, ...] = (
    (r"^decoder\.prediction\.embed\.", "heads.transducer.predictor.embedding."),
    (r"^decoder\.prediction\.dec_rnn\.lstm\.", "heads.transducer.predictor.lstm."),
    (r"^joint\.enc\.", "heads.transducer.encoder_projection."),
    (r"^joint\.pred\.", "heads.transducer.predictor_projection."),
    (r"^joint\.joint_net\.\d+\.", "heads.transducer.output."),
    (r"^joint\.durations\.", "heads.transducer.durations."),
)
ACTIVATIONS: dict[str, Activation] = {"relu": "relu", "tanh": "tanh"}
MAX_SYMBOLS = 10  # NeMo's default


def transducer(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[TransducerConfig | None, dict[str, Tensor]]:
    """The head that model_config.yaml describes, if it has one, and the tensors in the order of our tokens.

    Sizes are read from the tensors, for the configuration may have them as references. NeMo's blank is the last token,
    ours the first; durations stand behind it in the joiner's output and are renamed to `joint.durations`.
    Raises BundleError: a transducer of a form that ours lack.
    """
    if not any(name.startswith("joint.") for name in tensors):
        return None, dict(tensors)
    _check(config, tensors)
    durations, loss = _durations(config)
    joined = tensors["joint.enc.weight"]
    size = next(len(x) for name, x in tensors.items() if OUTPUT.match(name)) - len(durations)
    embedding = tensors[EMBEDDING]
    units = tensors[f"{LSTM}weight_hh_l0"].shape[1]
    prediction, joint = (config[part][net] for part, net in (("decoder", "prednet"), ("joint", "jointnet")))
    predictor = LSTMConfig(
        dim=units,
        layers=sum(name.startswith(f"{LSTM}weight_hh_l") for name in tensors),
        embedding=0 if embedding.shape[1] == units else embedding.shape[1],
        dropout=float(prediction.get("dropout") or 0.0),
    )
    tdt = None
    if durations:
        tdt = TDTConfig(
            durations=durations, sigma=float(loss.get("sigma", 0.0)), omega=float(loss.get("omega", 0.0))
        )
    greedy = (config.get("decoding") or {}).get("greedy") or {}
    head = TransducerConfig(
        predictor=predictor,
        joiner_dim=len(joined),
        joiner_activation=ACTIVATIONS[str(joint["activation"]).lower()],
        loss="full",
        fastemit=float(loss.get("fastemit_lambda") or 0.0),
        tdt=tdt,
        max_symbols=int(greedy.get("max_symbols") or MAX_SYMBOLS),
    )
    placed: dict[str, Tensor] = {}
    for name, x in tensors.items():
        if OUTPUT.match(name):
            placed[name] = x[:size].roll(1, 0)
            if durations:
                placed[f"joint.durations.{name.rsplit('.', 1)[1]}"] = x[size:]
        else:
            placed[name] = x
    # What comes before the first token is a zero vector, with a row in the table (`blank_as_pad`) or without.
    labels = embedding[: size - 1]
    placed[EMBEDDING] = torch.cat([labels.new_zeros(1, labels.shape[1]), labels])
    return head, placed


def _check(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    decoder, joint = config.get("decoder") or {}, config.get("joint") or {}
    kind = str(decoder.get("_target_")).rsplit(".", 1)[-1]
    if kind != "RNNTDecoder" or EMBEDDING not in tensors:
        raise BundleError(f"decoder._target_: {kind} has no counterpart here; converted is: RNNTDecoder")
    if decoder.get("normalization_mode") is not None or f"{LSTM}weight_hr_l0" in tensors:
        raise BundleError(
            f"decoder.normalization_mode: {decoder.get('normalization_mode')}, or an LSTM with a projection: "
            "neither has a counterpart here"
        )
    activation = (joint.get("jointnet") or {}).get("activation")
    if str(activation).lower() not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise BundleError(
            f"joint.jointnet.activation: {activation!r} has no counterpart here; converted are: {known}"
        )


def _durations(config: Mapping[str, Any]) -> tuple[tuple[int, ...], Mapping[str, Any]]:
    """The durations, none where it has no such outputs, and the settings of its loss."""
    loss = config.get("loss") or {}
    name = str(loss.get("loss_name", "default"))
    options = loss.get(f"{name}_kwargs") or loss.get("warprnnt_numba_kwargs") or {}
    if not int((config.get("joint") or {}).get("num_extra_outputs") or 0):
        return (), options
    found = options.get("durations") or (config.get("decoding") or {}).get("durations")
    if name not in ("tdt", "default") or not isinstance(found, list):
        raise BundleError(
            f"loss.loss_name: {name}: outputs beside the tokens have a counterpart here with TDT's durations only"
        )
    return tuple(found), options
