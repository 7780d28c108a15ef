"""`asr describe`: what a model is made of, what it sees, and what a stream of it costs."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from asr import config as configuration
from asr.audio import FRAMES_PER_SECOND
from asr.bundle import load
from asr.encoders import Chunk, EncoderConfig, build
from asr.model import Model
from asr.state import state_bytes
from asr.tokenizer import Tokenizer

__all__ = ["Cost", "Part", "costs", "describe", "multiply_adds", "parts", "reach_seconds"]

WHOLE = 10  # seconds of audio of which the cost in full context is told
FIRST, LONGEST = 1 << 10, 1 << 16  # input frames among which the end of the receptive field is looked for
NARROW: dict[str, Any] = {
    "dim": 8, "heads": 1, "head_dim": 0, "feed_forward_dim": 8, "cgmlp_dim": 8, "subsampling_channels": 8,
    "dims": (8,) * 6, "feed_forward_dims": (8,) * 6, "unmasked_dims": (8,) * 6, "embed_channels": (4, 4, 8),
}  # fmt: skip
"""Widths, which do not change what an encoder sees, by their fields' names."""


@dataclass(frozen=True)
class Part:
    """`count` equal modules, one after another, `depth` levels inside the model; parameters of all of them."""

    name: str
    kind: str
    count: int
    depth: int
    parameters: int


@dataclass(frozen=True)
class Cost:
    """latency_ms: None for full context. reach_seconds: audio before its chunk on which a frame depends, None for all.
    state_bytes: of one stream, None where it is not streamed. multiply_adds: per second of audio, see `multiply_adds`.
    """

    latency_ms: int | None
    chunk: Chunk
    reach_seconds: float | None
    state_bytes: int | None
    multiply_adds: float


def parts(model: Model) -> list[Part]:
    """The model's parts down to those of one layer. Those without parameters are left out."""
    return [
        *_parts("encoder", model.encoder, 0, 2),
        *(part for name, head in model.heads.items() for part in _parts(name, head, 0, 0)),
    ]


def _parts(name: str, module: nn.Module, depth: int, deepest: int) -> Iterator[Part]:
    if size := _size(module):
        yield Part(name, type(module).__name__, 1, depth, size)
        if depth < deepest:
            yield from _inside(module, depth + 1, deepest)


def _inside(module: nn.Module, depth: int, deepest: int) -> Iterator[Part]:
    for name, child in module.named_children():
        if not isinstance(child, nn.ModuleList):
            yield from _parts(name, child, depth, depth)
            continue
        at = 0
        for (kind, size), group in groupby(child, key=lambda layer: (type(layer).__name__, _size(layer))):
            layers = list(group)
            span = f"{name} {at}" if len(layers) == 1 else f"{name} {at}-{at + len(layers) - 1}"
            yield Part(span, kind, len(layers), depth, size * len(layers))
            if depth < deepest:
                yield from (
                    replace(part, count=part.count * len(layers), parameters=part.parameters * len(layers))
                    for part in _inside(layers[0], depth + 1, deepest)
                )
            at += len(layers)


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def costs(model: Model) -> list[Cost]:
    """What each latency costs, lowest first, and full context. The model is copied, and the copy made float64."""
    encoder = copy.deepcopy(model).double().eval().encoder
    found = []
    for chunk in sorted(model.encoder.chunk_sizes, key=lambda chunk: chunk.frames or 1 << 30):
        adds = multiply_adds(encoder, chunk, model.features.bins)
        if chunk.full:
            found.append(Cost(None, chunk, None, None, adds))
            continue
        reach = reach_seconds(model.config.encoder, chunk)
        held = state_bytes(model.init_state(1, chunk))
        found.append(Cost(model.latency_ms(chunk), chunk, reach, held, adds))
    return found


def multiply_adds(encoder: Any, chunk: Chunk, bins: int) -> float:
    """Multiply-adds of an encoder per second of audio: of one step of one stream, or of `WHOLE` seconds at once.

    Counted are matrix products, convolutions and attention, positions and hidden scores included; features, heads,
    norms, activations and sums are not. The encoder is float64, for the C kernels, of which torch would not know, are
    float32's.
    """
    size = WHOLE * FRAMES_PER_SECOND if chunk.full else chunk.frames * encoder.subsampling
    first = size + encoder.lookahead
    fused: Any = (
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    )  # torch does not count it by itself
    counter = FlopCounterMode(display=False, custom_mapping={fused: _attention})
    with torch.no_grad():
        if chunk.full:
            with counter:
                encoder(torch.zeros(1, size, bins, dtype=torch.float64), torch.tensor([size]), chunk)
        else:
            state = encoder.init_state(1, chunk)
            x = torch.zeros(1, max(first, size), bins, dtype=torch.float64)
            _, _, state = encoder.step(x[:, :first], torch.tensor([first]), state, chunk)
            with counter:
                encoder.step(x[:, :size], torch.tensor([size]), state, chunk)
    return counter.get_total_flops() / 2 * FRAMES_PER_SECOND / size


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    count: int = sdpa_flop_count(query, key, value)
    return count


def reach_seconds(config: EncoderConfig, chunk: Chunk) -> float:
    """How long before a chunk the audio begins that the chunk's first frame depends on, through all layers.

    Measured: the first input frame that gets a gradient, in an encoder as deep and as far-sighted, but narrow.
    """
    narrow = {name: v for name, v in NARROW.items() if isinstance(getattr(config, name, None), type(v))}
    encoder: Any = build(replace(config, **narrow), 16).double().eval()
    step = chunk.frames * encoder.subsampling
    size = FIRST
    while True:
        frames = -(-size // step) * step + encoder.lookahead
        x = torch.randn(1, frames, 16, dtype=torch.float64, requires_grad=True)
        y, _ = encoder(x, torch.tensor([frames]), chunk)
        y = y[:, y.shape[1] - chunk.frames]
        (y * torch.randn_like(y)).sum().backward()  # a norm makes the mere sum a constant
        assert x.grad is not None
        first = int(x.grad.abs().sum((0, 2)).nonzero()[0])
        if first > 0 or size >= LONGEST:
            return (frames - encoder.lookahead - step - first) / FRAMES_PER_SECOND
        size *= 2


def describe(path: Path, overrides: Sequence[str] = ()) -> str:
    """The model of a bundle, or of a recipe with fresh weights, in words and tables.

    Raises BundleError or ConfigError for what is neither.
    """
    model = _recipe(path, overrides) if path.suffix in (".yaml", ".yml") else load(path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = costs(model)
    encoder = model.encoder
    rate = FRAMES_PER_SECOND / encoder.subsampling
    heads = " and ".join(model.heads)
    layers = [
        (
            "  " * part.depth + part.name,
            f"{part.count} x {part.kind}" if part.count > 1 else part.kind,
            _millions(part),
        )
        for part in parts(model)
    ]
    rows = [
        (
            "full context" if cost.latency_ms is None else f"{cost.latency_ms} ms",
            "all" if cost.chunk.full else f"{cost.chunk.frames} + {cost.chunk.left}",
            "all" if cost.reach_seconds is None else f"{cost.reach_seconds:.2f} s",
            "" if cost.state_bytes is None else f"{cost.state_bytes:,}",
            f"{cost.multiply_adds / 1e9:.2f} G",
        )
        for cost in found
    ]
    return "\n".join(
        [
            f"{model.config.encoder.kind} with {heads}, {_size(model) / 1e6:.1f} M parameters",
            f"{rate:g} frames a second of {encoder.dim} values; heads of {model.tokenizer.size} tokens",
            "",
            *_table(("layers", "", "parameters"), layers),
            "",
            *_table(
                ("latency", "chunk + left", "sees before", "bytes a stream", "multiply-adds a second"), rows
            ),
            "",
            "latency: a chunk and the look-ahead. chunk + left: frames that attention sees. sees before: audio before",
            "its chunk on which a frame depends, through all layers. multiply-adds: the encoder's matrix products,",
            f"convolutions and attention for a second of audio of one stream; in full context, of {WHOLE} s at once.",
        ]
    )


def _recipe(path: Path, overrides: Sequence[str]) -> Model:
    """With a vocabulary of the right size: which tokens are in it is not known before training."""
    from asr.training.recipe import RecipeConfig

    recipe = configuration.load(RecipeConfig, path, overrides=overrides)
    letters = "".join(chr(0x4E00 + i) for i in range(recipe.tokenizer.vocabulary - 1))
    return Model(recipe.model, Tokenizer.train([letters], kind="characters")).eval()


def _millions(part: Part) -> str:
    return f"{part.parameters / 1e6:.2f} M" if part.parameters >= 1e4 else f"{part.parameters}"


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned columns: the first to the left, and of a table of layers the second, too; figures to the right."""
    widths = [max(len(row[i]) for row in (heading, *rows)) for i in range(len(heading))]
    left = 2 if not heading[1] else 1
    return [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (heading, *rows)
    ]
