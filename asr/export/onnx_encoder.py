"""An encoder whose steps ONNX Runtime computes: to a `Model`, an encoder like any other."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asr.audio import HOP
from asr.encoders import Chunk
from asr.errors import ConfigError
from asr.export.leaves import leaves, names, rebuild
from asr.export.onnx import encoder_file, export_encoder
from asr.model import Model

__all__ = ["OnnxEncoder", "with_onnx_runtime"]


class OnnxEncoder(nn.Module):
    """See `asr.encoders.Encoder` for the contract; there is no full context. `sessions`: one for each chunk."""

    def __init__(self, encoder: Any, sessions: dict[Chunk, Any], *, frames: dict[Chunk, int]) -> None:
        super().__init__()
        self.dim, self.subsampling, self.lookahead = encoder.dim, encoder.subsampling, encoder.lookahead
        self.chunk_sizes = tuple(sessions)
        self._sessions, self._frames = sessions, frames
        self._like = {chunk: encoder.init_state(1, chunk) for chunk in sessions}

    def init_state(self, batch: int, chunk: Chunk) -> Any:
        like = self._like[chunk]
        return rebuild(like, [leaf.expand(batch, *leaf.shape[1:]).clone() for leaf in leaves(like)])

    def forward(self, x: Tensor, x_lens: Tensor, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """Raises ConfigError: it steps only."""
        raise ConfigError("ONNX Runtime steps streams only: choose one of the model's latencies")

    def step(self, x: Tensor, x_lens: Tensor, state: Any, chunk: Chunk) -> tuple[Tensor, Tensor, Any]:
        size, tensors = self._frames[chunk], dict(zip(names(state, "state"), leaves(state), strict=True))
        x, x_lens = self._begin(x, x_lens, tensors, size)
        found = []
        for at in range(0, x.shape[1], size):
            tensors["x"], tensors["x_lens"] = x[:, at : at + size], (x_lens - at).clamp(0, size)
            y, y_lens, *after = self._run(chunk, tensors)
            tensors = dict(zip(names(state, "state"), after, strict=True))
            found.append((y, y_lens))
        ys, lens = zip(*found, strict=True)
        return torch.cat(ys, 1), torch.stack(lens).sum(0), rebuild(state, tensors.values())

    def _begin(
        self, x: Tensor, x_lens: Tensor, tensors: dict[str, Tensor], size: int
    ) -> tuple[Tensor, Tensor]:
        """Whole chunks. The first step of streams brings the look-ahead, too: it goes where it waits in later ones."""
        if x.shape[1] % size == 0:
            return x, x_lens
        if self.lookahead < 0:
            # Its state has begun before the stream, so that these frames are none of it.
            return nn.functional.pad(x, (0, 0, -self.lookahead, 0)), x_lens
        (received,) = (name for name in tensors if name.endswith("received"))
        (pending,) = (name for name in tensors if name.endswith("pending"))
        tensors[pending] = x[:, : self.lookahead]
        tensors[received] = x_lens.clamp(max=self.lookahead)
        return x[:, self.lookahead :], (x_lens - self.lookahead).clamp(min=0)

    def _run(self, chunk: Chunk, tensors: dict[str, Tensor]) -> list[Tensor]:
        arrays = {name: tensor.contiguous().numpy() for name, tensor in tensors.items()}
        session = self._sessions[chunk]
        wanted = {x.name for x in session.get_inputs()}
        outputs = session.run(None, {name: array for name, array in arrays.items() if name in wanted})
        return [torch.from_numpy(array) for array in outputs]


def with_onnx_runtime(
    model: Model, *, folder: str | Path | None = None, int8: bool = False, threads: int | None = None
) -> Model:
    """The model with its encoder in ONNX Runtime: from the graphs in `folder`, as `export` wrote them, or from new
    ones. `int8`: weights and activations of its matrix products in bytes. Heads and search stay as they are.

    Raises ConfigError: no onnxruntime (or onnx, for `int8`), an offline model, no graphs in `folder`.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError("the engine onnx needs ONNX Runtime: pip install 'rill-asr[onnx]'") from error
    chunks = [chunk for chunk in model.encoder.chunk_sizes if not chunk.full]
    if not chunks:
        raise ConfigError("this is an offline model, trained for no latency: it has no streaming step")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    if int8:  # of graphs with bytes in them it finds no end of optimising more
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    sessions = {}
    with tempfile.TemporaryDirectory(prefix="rill-onnx-") as scratch:
        for chunk in chunks:
            path = encoder_file(Path(folder or scratch), model, chunk)
            if folder is None:
                export_encoder(model, chunk, path)
            elif not path.is_file():
                raise ConfigError(f"{path}: no such file; `asr export` writes it")
            if int8:
                path = _in_bytes(path, Path(scratch, f"int8-{path.name}"))
            sessions[chunk] = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
    frames = {chunk: model.samples_next(chunk) // HOP for chunk in chunks}
    model.encoder = OnnxEncoder(model.encoder, sessions, frames=frames)  # type: ignore[assignment]
    return model


def _in_bytes(path: Path, out: Path) -> Path:
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise ConfigError("int8 in ONNX Runtime needs onnx: pip install 'rill-asr[onnx]'") from error
    quantize_dynamic(path, out, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8)
    return out
