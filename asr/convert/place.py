"""Tensors of another toolkit -> a model of ours: renamed, put together, and named where they have no place."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from asr.errors import BundleError
from asr.model import Model

__all__ = ["ATTENTION", "Converted", "Rule", "place", "rename"]

Rule = tuple[str, str]
"""A pattern in the peer's name, and what takes its place; all rules of a table apply, in its order.

A new name that ends in `[i/n]` says that the tensor is part i of n of ours, along axis 0.
"""

ATTENTION: tuple[Rule, ...] = (
    (r"\.linear_q\.(\w+)$", r".project_in.\1[0/3]"),
    (r"\.linear_k\.(\w+)$", r".project_in.\1[1/3]"),
    (r"\.linear_v\.(\w+)$", r".project_in.\1[2/3]"),
    (r"\.linear_out\.", ".project_out."),
    (r"\.linear_pos\.", ".project_positions."),
    (r"\.pos_bias_u$", ".content_bias"),
    (r"\.pos_bias_v$", ".position_bias"),
)
"""The attention that ESPnet wrote and NeMo and WeNet took over."""

PART = re.compile(r"\[(\d)/(\d)\]$")
NAMED = 5  # tensors that a message lists


@dataclass(frozen=True)
class Converted:
    """The model; the checkpoint's tensors that have no place in it; what its user has to know."""

    model: Model
    left_over: tuple[str, ...]
    notes: tuple[str, ...] = ()


def rename(name: str, rules: Sequence[Rule]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


@torch.no_grad()
def place(
    tensors: Mapping[str, Tensor],
    rules: Sequence[Rule],
    model: Model,
    *,
    parts: Mapping[str, Sequence[Rule]] | None = None,
) -> tuple[str, ...]:
    """Fill the model, and return the names of the tensors that it has no place for.

    parts: rules for names that begin in some way, in place of `rules`.
    A tensor may have axes of length 1 more or less than ours: a convolution of one frame is a linear layer.
    Raises BundleError: a tensor of the model gets no values, or values of another shape.
    """
    ours = model.state_dict()
    filled = dict.fromkeys(ours, Fraction(0))
    left_over = []
    for name, tensor in tensors.items():
        own = (of for begin, of in (parts or {}).items() if name.startswith(begin))
        new = rename(name, next(own, rules))
        part, count = map(int, found.groups()) if (found := PART.search(new)) else (0, 1)
        new = PART.sub("", new)
        if new not in ours:
            left_over.append(name)
            continue
        here = ours[new].chunk(count)[part] if count > 1 else ours[new]
        if here.squeeze().shape != tensor.squeeze().shape:
            raise BundleError(
                f"{name}: the checkpoint has shape {tuple(tensor.shape)}, the model {tuple(here.shape)}; "
                f"the tokenizer has {model.tokenizer.size} tokens"
            )
        here.copy_(tensor.reshape(here.shape))
        filled[new] += Fraction(1, count)
    if missing := sorted(name for name, share in filled.items() if share != 1):
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        raise BundleError(f"the checkpoint has nothing for {', '.join(missing[:NAMED])}{more}")
    return tuple(left_over)
