"""A model's streaming step as ONNX graphs, whose state are named inputs and outputs.

    encoder-450.onnx            one for each latency
        x (B, T, F), x_lens (B,), state.*       T frames of one chunk, as many as `samples_next`
        -> y (B, U, D), y_lens (B,), next.*     next.* is state.* of the next step
    ctc.onnx                    y -> log_probabilities (B, U, V)
    transducer-encoder.onnx     y -> projected (B, U, J)
    transducer-predictor.onnx   token (B,), state.* -> predicted (B, J), next.*
    transducer-joiner.onnx      encoder (B, J), predictor (B, J) -> logits (B, V); with TDT durations (B, D), too

B may be any number. A stream begins with a state of zeros. An encoder with a look-ahead L > 0 gets the first L frames
of a stream in `state.*.pending`, with `state.*.received` L, before those of its first step; where L < 0, -L frames of
zeros stand before them. `asr.export.onnx_encoder` does so.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asr.audio import HOP
from asr.encoders import Chunk
from asr.errors import ConfigError
from asr.export.leaves import leaves, names, rebuild
from asr.model import Model

__all__ = ["encoder_file", "export", "export_encoder"]

OPSET = 17


class _Graph(nn.Module):
    """A function of tensors, with the module whose weights it uses."""

    def __init__(self, module: nn.Module, function: Callable[..., tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.module = module
        self.function = function

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return self.function(*tensors)


def encoder_file(folder: Path, model: Model, chunk: Chunk) -> Path:
    """Where the encoder of a latency stands."""
    return folder / f"encoder-{model.latency_ms(chunk)}.onnx"


def export(model: Model, folder: str | Path) -> list[Path]:
    """Write the graphs of all latencies, of CTC and of the transducer; an attention decoder has none.

    Raises ConfigError: an offline model.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    chunks = [chunk for chunk in model.encoder.chunk_sizes if not chunk.full]
    if not chunks:
        raise ConfigError(
            "this is an offline model, trained for no latency: it has no streaming step to export"
        )
    written = [export_encoder(model, chunk, encoder_file(folder, model, chunk)) for chunk in chunks]
    y = torch.zeros(5, 3, model.encoder.dim)
    for name, write in (("ctc", _ctc), ("transducer", _transducer)):
        if name in model.heads:
            written += write(model.heads[name], y, folder)
    return written


def export_encoder(model: Model, chunk: Chunk, path: Path) -> Path:
    """One latency's."""
    encoder: Any = model.eval().encoder
    size, ahead = model.samples_next(chunk) // HOP, encoder.lookahead
    like = encoder.init_state(3, chunk)
    # The tracer follows the example: it must be on its way, not yet as old as its left context, and about to end.
    x = torch.randn(3, size + max(0, ahead), model.features.bins)
    with torch.inference_mode():
        _, _, state = encoder.step(x[:, : size + ahead], torch.tensor([size + ahead] * 3), like, chunk)
    state = rebuild(state, [leaf.clone() for leaf in leaves(state)])  # ordinary tensors again

    def step(x: Tensor, x_lens: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        y, y_lens, new = encoder.step(x, x_lens, rebuild(like, state), chunk)
        return (y, y_lens, *leaves(new))

    inputs = ["x", "x_lens", *names(like, "state")]
    outputs = ["y", "y_lens", *names(like, "next")]
    example = (x[:, :size], torch.tensor([size, size // 2, 0]), *leaves(state))
    # Of the model, for CTC's weights may be part of the step: `conditioned` encoders.
    return _write(model, step, example, inputs, outputs, path)


def _ctc(head: Any, y: Tensor, folder: Path) -> list[Path]:
    return [
        _write(
            head,
            lambda y: (head.log_probabilities(y),),
            (y,),
            ["y"],
            ["log_probabilities"],
            folder / "ctc.onnx",
        )
    ]


def _transducer(head: Any, y: Tensor, folder: Path) -> list[Path]:
    state = head.predictor.init_state(len(y))
    projected = head.encoder_projection(y)[:, 0].detach()

    def predict(token: Tensor, *state_leaves: Tensor) -> tuple[Tensor, ...]:
        prediction = head.predict(token, rebuild(state, state_leaves))
        return (prediction.output, *leaves(prediction.state))

    def join(encoder: Tensor, predictor: Tensor) -> tuple[Tensor, ...]:
        logits = (head.join(encoder, predictor),)
        return logits if head.config.tdt is None else (*logits, head.join_durations(encoder, predictor))

    token = torch.zeros(len(y), dtype=torch.int64)
    inputs, outputs = ["token", *names(state, "state")], ["predicted", *names(state, "next")]
    return [
        _write(
            head, lambda y: (head.encoder_projection(y),), (y,), ["y"], ["projected"],
            folder / "transducer-encoder.onnx",
        ),
        _write(head, predict, (token, *leaves(state)), inputs, outputs, folder / "transducer-predictor.onnx"),
        _write(
            head, join, (projected, projected), ["encoder", "predictor"],
            ["logits"] if head.config.tdt is None else ["logits", "durations"], folder / "transducer-joiner.onnx",
        ),
    ]  # fmt: skip


def _write(
    module: nn.Module,
    function: Callable[..., tuple[Tensor, ...]],
    example: Sequence[Tensor],
    inputs: list[str],
    outputs: list[str],
    path: Path,
) -> Path:
    axes = {name: {0: "B"} for name in (*inputs, *outputs)}
    for name in ("y", "log_probabilities", "projected"):
        if "y" in inputs and name in axes:  # heads take any number of frames
            axes[name][1] = "U"
    with warnings.catch_warnings(), torch.no_grad():
        # The exporter that traces: it follows the step as it is, branches on data included, which are the same for
        # every step after the first. It is told to be old, and to warn of each such branch.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Graph(module, function).eval(),
            tuple(example),
            str(path),
            input_names=inputs,
            output_names=outputs,
            dynamic_axes=axes,
            opset_version=OPSET,
            do_constant_folding=False,  # it reads beyond short tensors; ONNX Runtime folds by itself
            dynamo=False,
        )
    return path
