"""What a trained encoder does with recordings: which blocks its gates open, what its layers take from each branch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asr.audio import HOP, read
from asr.encoders import Branchformer
from asr.encoders.base import Chunk
from asr.encoders.dynamic_depth import GatedEncoder, gate_probabilities
from asr.errors import ConfigError
from asr.model import Model
from asr.training import pictures

__all__ = ["draw"]


def draw(model: Model, recordings: Sequence[Path], out: Path, *, latency_ms: int | None = None) -> str:
    """Write a PNG of what the encoder does with the recordings, and return a table of its means over them.

    A model with `depth`: the probability that each block runs, of each recording. A Branchformer with `merge: learned`:
    what each layer takes from attention and from cgMLP. Raises ConfigError: a model of neither kind, or no recordings.
    """
    import matplotlib.image

    if not recordings:
        raise ConfigError("nothing to draw: name recordings with --audio")
    encoder, chunk = model.encoder, model.chunk_for(latency_ms)
    if isinstance(encoder, GatedEncoder) and encoder.depth is not None:
        gates = [gate_probabilities(encoder, *_features(model, path), chunk) for path in recordings]
        means = torch.cat([one.by_utterance() for one in gates])
        ran = torch.stack([one.open.mean((0, 1)) for one in gates])
        image = pictures.gates(means, threshold=encoder.depth.threshold)
        rows = [
            f"{layer:5}  {mean:11.3f}  {share:7.1%}"
            for layer, (mean, share) in enumerate(zip(means.mean(0), ran.mean(0), strict=True), 1)
        ]
        table = ["block  probability  runs on", *rows, f"of {len(rows)} blocks, {ran.sum(1).mean():.2f} run"]
    elif isinstance(encoder, Branchformer) and encoder.config.merge == "learned":
        weights = torch.cat([_merges(encoder, *_features(model, path), chunk) for path in recordings])
        image = pictures.merge_weights(weights)
        table = ["layer  attention  cgMLP"]
        table += [
            f"{layer:5}  {a:9.3f}  {c:5.3f}" for layer, (a, c) in enumerate(weights.mean(0).tolist(), 1)
        ]
    else:
        raise ConfigError(
            "nothing to draw: the encoder has neither gates (model.encoder.depth) nor learned merge weights "
            "(kind: branchformer, merge: learned)"
        )
    matplotlib.image.imsave(out, image)
    return "\n".join(table)


def _features(model: Model, path: Path) -> tuple[Tensor, Tensor]:
    """(1, T, F), (1,) of one recording, with the silence that flushes it."""
    samples = torch.from_numpy(read(path))[None]
    with torch.inference_mode():
        samples, lens = model.flushed(samples, torch.tensor([samples.shape[1]]))
        return model.features(samples), -(-lens // HOP)


def _merges(encoder: Any, x: Tensor, lens: Tensor, chunk: Chunk) -> Tensor:
    weights: Tensor = encoder.merge_weights(x, lens, chunk)
    return weights
