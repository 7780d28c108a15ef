"""What a model does with recordings: which blocks its gates open, what its layers take from each branch, what it
attends to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from asr.audio import HOP, read
from asr.encoders import Branchformer
from asr.encoders.base import FULL_CONTEXT
from asr.encoders.dynamic_depth import GatedEncoder, gate_probabilities
from asr.errors import ConfigError
from asr.heads.attention import AttentionDecoder
from asr.model import Model
from asr.training import pictures

__all__ = ["draw", "views"]


def draw(model: Model, recordings: Sequence[Path], out: Path, *, latency_ms: int | None = None) -> str:
    """Write a PNG of what the encoder does with the recordings, and return a table of its means over them.

    A model with `depth`: the probability that each block runs, of each recording. A Branchformer with `merge: learned`:
    what each layer takes from attention and from cgMLP. Raises ConfigError: a model of neither kind, or no recordings.
    """
    import matplotlib.image

    if not recordings:
        raise ConfigError("nothing to draw: name recordings with --audio")
    encoder, chunk = model.encoder, model.chunk_for(latency_ms)
    features = [_features(model, *_read(path)) for path in recordings]
    if isinstance(encoder, GatedEncoder) and encoder.depth is not None:
        gates = [gate_probabilities(encoder, *one, chunk) for one in features]
        means = torch.cat([one.by_utterance() for one in gates])
        ran = torch.stack([one.open.mean((0, 1)) for one in gates])
        image = pictures.gates(means, threshold=encoder.depth.threshold)
        rows = [
            f"{layer:5}  {mean:11.3f}  {share:7.1%}"
            for layer, (mean, share) in enumerate(zip(means.mean(0), ran.mean(0), strict=True), 1)
        ]
        table = ["block  probability  runs on", *rows, f"of {len(rows)} blocks, {ran.sum(1).mean():.2f} run"]
    elif isinstance(encoder, Branchformer) and encoder.config.merge == "learned":
        merges: Any = encoder.merge_weights
        weights = torch.cat([merges(*one, chunk) for one in features])
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


def views(
    model: Model, samples: Tensor, lens: Tensor, tokens: Tensor, token_lens: Tensor
) -> dict[str, NDArray[np.uint8]]:
    """Pictures, by name, of what a model does offline with a batch of which the texts are known: samples (B, S), (B,),
    tokens (B, S), (B,). Gates and merge weights of its encoder are of all utterances; what an attention decoder attends
    to is of the last. Nothing of a model that has none of these.
    """
    encoder, found = model.encoder, {}
    with torch.inference_mode():
        x, x_lens = _features(model, samples, lens)
        if isinstance(encoder, GatedEncoder) and encoder.depth is not None:
            means = gate_probabilities(encoder, x, x_lens, FULL_CONTEXT).by_utterance()
            found["gates"] = pictures.gates(means, threshold=encoder.depth.threshold)
        if isinstance(encoder, Branchformer) and encoder.config.merge == "learned":
            found["merge weights"] = pictures.merge_weights(encoder.merge_weights(x, x_lens).cpu())
        for name, head in model.heads.items():
            if isinstance(head, AttentionDecoder):
                y, y_lens = encoder(x[-1:], x_lens[-1:])
                weights = head.weights(y, y_lens, tokens[-1:, : token_lens[-1]], token_lens[-1:])[0]
                pieces = [model.tokenizer.piece(token) for token in tokens[-1, : token_lens[-1]].tolist()]
                found[name] = pictures.attention(weights[..., : y_lens[0]].cpu(), [*pieces, "(end)"])
    return found


def _read(path: Path) -> tuple[Tensor, Tensor]:
    samples = torch.from_numpy(read(path))[None]
    return samples, torch.tensor([samples.shape[1]])


def _features(model: Model, samples: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
    """(B, T, F), (B,), with the silence that flushes the recordings."""
    with torch.inference_mode():
        samples, lens = model.flushed(samples, lens)
        return model.features(samples), -(-lens // HOP)
