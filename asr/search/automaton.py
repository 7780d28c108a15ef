"""Weighted automata with failure arcs, as tensors: phrases (Aho and Corasick 1975) and n-gram models are both that.

Many hypotheses take a step together, each from its own state with its own symbol: a search in a sorted table of arcs,
again from the failure state for those that found none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

__all__ = ["Automaton", "join"]


@dataclass(frozen=True)
class Automaton:
    """N states, the root 0 among them, and E arcs over `symbols` symbols.

    keys: (E,) int64, state * symbols + symbol, ascending; weight: (E,) float64; next: (E,) the states they lead to.
    back: (N,) the failure states, the root's its own; back_weight: (N, 2), the second where the symbol begins a word.
    final: (N,) what ending there adds. start: (1,) the first state.
    """

    symbols: int
    keys: Tensor
    weight: Tensor
    next: Tensor
    back: Tensor
    back_weight: Tensor
    final: Tensor
    start: Tensor

    def step(self, state: Tensor, symbol: Tensor, begins: Tensor) -> tuple[Tensor, Tensor]:
        """Three tensors of one shape -> the weights (float64) and the next states, in that shape.

        A symbol without an arc at the root leaves there, with weight 0.
        """
        shape, state, symbol, begins = state.shape, state.flatten(), symbol.flatten(), begins.flatten().long()
        total = torch.zeros(len(state), dtype=torch.float64, device=state.device)
        result = state.clone()
        rows = torch.arange(len(state), device=state.device)
        while len(rows) and len(self.keys):
            key = state * self.symbols + symbol
            arc = torch.searchsorted(self.keys, key).clamp(max=len(self.keys) - 1)
            found = self.keys[arc] == key
            back = self.back[state]
            total[rows] += torch.where(found, self.weight[arc], self.back_weight[state, begins])
            result[rows] = torch.where(found, self.next[arc], back)
            on = ~found & (back != state)
            rows, state, symbol, begins = rows[on], back[on], symbol[on], begins[on]
        return total.view(shape), result.view(shape)

    def to(self, device: torch.device) -> Automaton:
        return replace(self, **{name: getattr(self, name).to(device) for name in TENSORS})


TENSORS = tuple(field.name for field in fields(Automaton) if field.name != "symbols")


def join(automata: Sequence[Automaton]) -> tuple[Automaton, Tensor]:
    """Automata over the same symbols -> one that holds them all, and where each one's states begin in it.

    Equal ones (the same object) are held once; only one, and nothing is copied.
    """
    distinct = list({id(automaton): automaton for automaton in automata}.values())
    begin, offsets = 0, {}
    for automaton in distinct:
        offsets[id(automaton)] = begin
        begin += len(automaton.back)
    first = distinct[0]
    offset = torch.tensor([offsets[id(automaton)] for automaton in automata], device=first.back.device)
    if len(distinct) == 1:
        return first, offset
    starts = list(offsets.values())

    def put(name: str, unit: int) -> Tensor:
        parts = zip(distinct, starts, strict=True)
        return torch.cat([getattr(automaton, name) + start * unit for automaton, start in parts])

    return (
        Automaton(
            first.symbols,
            put("keys", first.symbols),
            put("weight", 0),
            put("next", 1),
            put("back", 1),
            put("back_weight", 0),
            put("final", 0),
            put("start", 1),
        ),
        offset,
    )
