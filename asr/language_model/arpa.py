"""ARPA files of n-grams with back-off (Katz 1987), as SRILM and KenLM write them -> an automaton."""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch

from asr.errors import DataError
from asr.search.automaton import Automaton

__all__ = ["UNKNOWN", "Arpa", "read"]

UNKNOWN = "<unk>"
UNKNOWN_SCORE = -7.0  # log10 of a word that a model without <unk> has never seen
LN10 = math.log(10)


@dataclass(frozen=True)
class _Order:
    """M n-grams of one length: words (M, n) by number, and log10 of probability and back-off weight (M,)."""

    words: np.ndarray
    probability: np.ndarray
    back_off: np.ndarray


@dataclass(frozen=True, eq=False)
class Arpa:
    """`words` of the model by number, <unk> among them, and the automaton over these numbers, in natural logarithms."""

    words: tuple[str, ...]
    automaton: Automaton


def read(path: str | Path) -> Arpa:
    """A file, plain or gzip-compressed. Raises DataError naming the line that is wrong."""
    orders: list[_Order] = []
    numbers: dict[str, int] = {}
    try:
        opened = gzip.open if str(path).endswith(".gz") else open
        with opened(path, "rt", encoding="utf-8") as f:
            for length, lines in _sections(f, path):
                orders.append(_order(length, lines, numbers, path))
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable ARPA file ({error})") from error
    if not orders:
        raise DataError(f"{path}: no \\1-grams: section, so this is no ARPA file")
    if UNKNOWN not in numbers:
        alias = numbers.get("<UNK>")
        numbers[UNKNOWN] = len(numbers)
        first = orders[0]
        score = UNKNOWN_SCORE if alias is None else float(first.probability[alias])
        orders[0] = _Order(
            np.append(first.words, [[numbers[UNKNOWN]]], 0),
            np.append(first.probability, score),
            np.append(first.back_off, 0.0),
        )
    return Arpa(tuple(numbers), _build(orders, len(numbers), numbers.get("<s>")))


def _sections(f: IO[str], path: str | Path) -> Iterator[tuple[int, Iterator[tuple[int, str]]]]:
    """(n, its lines with their numbers) of each section; the lines must be used up before the next is asked for."""
    numbered = enumerate(f, 1)

    def lines() -> Iterator[tuple[int, str]]:
        for number, line in numbered:
            if not line.strip():
                return
            yield number, line

    for number, line in numbered:
        head = line.strip()
        if head.endswith("-grams:") and head.startswith("\\"):
            if not head[1:-7].isdigit():
                raise DataError(f"{path}, line {number}: {head!r} is no section of n-grams")
            yield int(head[1:-7]), lines()


def _order(
    length: int, lines: Iterator[tuple[int, str]], numbers: dict[str, int], path: str | Path
) -> _Order:
    words, probability, back_off = [], [], []
    for number, line in lines:
        parts = line.split()
        if len(parts) not in (length + 1, length + 2):
            raise DataError(
                f"{path}, line {number}: {length} words with their numbers expected, not {line.strip()!r}"
            )
        try:
            probability.append(float(parts[0]))
            back_off.append(float(parts[length + 1]) if len(parts) == length + 2 else 0.0)
            gram = parts[1 : length + 1]
            if length == 1:
                numbers.setdefault(gram[0], len(numbers))
            words.append([numbers[word] for word in gram])
        except (ValueError, KeyError) as error:
            raise DataError(f"{path}, line {number}: {error} in {line.strip()!r}") from error
    shape = np.array(words, np.int64).reshape(-1, length)
    return _Order(shape, np.array(probability, np.float64), np.array(back_off, np.float64))


def _build(orders: list[_Order], symbols: int, begin: int | None) -> Automaton:
    """A state for the empty history and for each n-gram but the longest; the arcs are the n-grams."""
    tables: list[
        tuple[np.ndarray, np.ndarray]
    ] = []  # by length: sorted keys, and the states that they lead to
    back, back_weight = [np.zeros(1, np.int64)], [np.zeros(1)]
    arcs: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    states = 1
    for n, order in enumerate(orders, 1):
        before, found = _walk(order.words[:, :-1], tables, symbols)
        if not found.all():  # a history that the file lacks: its n-grams can never be reached
            order = _Order(*(part[found] for part in (order.words, order.probability, order.back_off)))
            before = before[found]
        shorter = _suffix(order.words, tables, symbols)
        keys = before * symbols + order.words[:, -1]
        if n < len(orders):
            reached = states + np.arange(len(order.words))
            states += len(order.words)
            back.append(shorter)
            back_weight.append(order.back_off)
            rank = np.argsort(keys)
            tables.append((keys[rank], reached[rank]))
        else:
            reached = shorter
        arcs.append((keys, order.probability, reached))
    key, weight, reached = (np.concatenate(column) for column in zip(*arcs, strict=True))
    rank = np.argsort(key)
    start = 0 if begin is None else int(_suffix(np.array([[-1, begin]]), tables, symbols)[0])
    weights = torch.from_numpy(np.concatenate(back_weight)) * LN10
    return Automaton(
        symbols,
        torch.from_numpy(key[rank]),
        torch.from_numpy(weight[rank]) * LN10,
        torch.from_numpy(reached[rank]),
        torch.from_numpy(np.concatenate(back)),
        torch.stack([weights, weights], 1),
        torch.zeros(states, dtype=torch.float64),
        torch.tensor([start]),
    )


def _walk(
    words: np.ndarray, tables: list[tuple[np.ndarray, np.ndarray]], symbols: int
) -> tuple[np.ndarray, np.ndarray]:
    """(M, n) words from the empty history -> the states (M,), and whether there are such."""
    state, there = np.zeros(len(words), np.int64), np.ones(len(words), bool)
    for column, (keys, reached) in zip(words.T, tables, strict=False):
        key = state * symbols + column
        at = np.minimum(np.searchsorted(keys, key), max(0, len(keys) - 1))
        there &= (keys[at] == key) if len(keys) else False
        state = np.where(there, reached[at] if len(keys) else 0, 0)
    return state, there


def _suffix(words: np.ndarray, tables: list[tuple[np.ndarray, np.ndarray]], symbols: int) -> np.ndarray:
    """The state of the longest history that ends as each n-gram, of (M, n), ends, and is shorter."""
    state = np.zeros(len(words), np.int64)
    open_ = np.ones(len(words), bool)
    for first in range(1, words.shape[1]):
        if words.shape[1] - first > len(tables):
            continue
        found, there = _walk(words[:, first:], tables, symbols)
        state = np.where(open_ & there, found, state)
        open_ &= ~there
    return state
