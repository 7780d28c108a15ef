"""A streaming state as named tensors, which is what inputs and outputs of other runtimes are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any, TypeVar

from torch import Tensor

from asr.state import map_tree

__all__ = ["leaves", "names", "rebuild"]

S = TypeVar("S")


def names(state: Any, prefix: str) -> list[str]:
    """The places of the leaves: `prefix.stacks.0.1.keys`."""
    if isinstance(state, Tensor):
        return [prefix]
    if isinstance(state, tuple):
        parts = [(str(i), part) for i, part in enumerate(state)]
    else:
        parts = [(x.name, getattr(state, x.name)) for x in fields(state)]
    return [name for key, part in parts for name in names(part, f"{prefix}.{key}")]


def leaves(state: Any) -> list[Tensor]:
    """The tensors, in the order of `names`."""
    found: list[Tensor] = []

    def note(leaf: Tensor) -> Tensor:
        found.append(leaf)
        return leaf

    map_tree(note, state)
    return found


def rebuild(like: S, tensors: Iterable[Tensor]) -> S:
    """A state of the structure of `like` from its leaves."""
    rest = iter(tensors)
    return map_tree(lambda _: next(rest), like)
