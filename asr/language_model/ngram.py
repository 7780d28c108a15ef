"""N-gram language models for search: what the next word or token costs, for many histories at once."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor

from asr.errors import ConfigError, DataError
from asr.language_model import arpa
from asr.language_model.spelling import hashes
from asr.search.automaton import Automaton
from asr.search.phrases import as_written

if TYPE_CHECKING:
    from asr.tokenizer import Tokenizer

__all__ = ["KenLM", "LanguageModel", "TokenNgrams", "WordNgrams", "load"]

MAGIC = b"mmap lm http://kheafield.com/code format version"
LN10 = math.log(10)


class LanguageModel(Protocol):
    """Histories are rows of H numbers that only the model understands; `start` (H,) is that of a sentence's begin.

    unit: what the items are: tokens by number, or words by the hash of their spelling.
    """

    unit: Literal["tokens", "words"]
    start: Tensor

    def score(self, history: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        """(N, H), (N,) -> natural log-probabilities (N,) float64, and the next histories (N, H)."""
        ...


class TokenNgrams:
    """An ARPA model over the tokenizer's pieces; a history is a state of its automaton."""

    unit: Literal["tokens", "words"] = "tokens"

    def __init__(self, model: arpa.Arpa, tokenizer: Tokenizer, device: torch.device) -> None:
        numbers = {word: number for number, word in enumerate(model.words)}
        unknown = numbers[arpa.UNKNOWN]
        pieces = map(tokenizer.piece, range(tokenizer.size))
        self._symbol = torch.tensor([numbers.get(piece, unknown) for piece in pieces], device=device)
        self._automaton: Automaton = model.automaton.to(device)
        self.start = self._automaton.start

    def score(self, history: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        return _step(self._automaton, history, self._symbol[item])


class _Vocabulary:
    """Words by the hash of their spelling; `unknown` is the number of all others."""

    def __init__(
        self, words: Sequence[str], unknown: int, tokenizer: Tokenizer, device: torch.device
    ) -> None:
        written = hashes([as_written(word, tokenizer) for word in words]).to(device)
        self._hashes, self._numbers = written.sort(stable=True)
        self._unknown = unknown

    def numbers(self, item: Tensor) -> Tensor:
        at = torch.searchsorted(self._hashes, item).clamp(max=len(self._hashes) - 1)
        return torch.where(self._hashes[at] == item, self._numbers[at], self._unknown)


class WordNgrams:
    """An ARPA model over words. Of words that differ in a case that the tokenizer lacks, the first counts."""

    unit: Literal["tokens", "words"] = "words"

    def __init__(self, model: arpa.Arpa, tokenizer: Tokenizer, device: torch.device) -> None:
        unknown = model.words.index(arpa.UNKNOWN)
        self._vocabulary = _Vocabulary(model.words, unknown, tokenizer, device)
        self._automaton = model.automaton.to(device)
        self.start = self._automaton.start

    def score(self, history: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        return _step(self._automaton, history, self._vocabulary.numbers(item))


def _step(automaton: Automaton, history: Tensor, symbol: Tensor) -> tuple[Tensor, Tensor]:
    score, state = automaton.step(history[:, 0], symbol, torch.zeros_like(symbol))
    return score, state[:, None]


class KenLM:
    """A binary of KenLM (Heafield 2011), through its Python package; a history is the last words by number.

    The package answers one word at a time, so this loops over the hypotheses that have ended a word. An ARPA file
    of the same model is read by us and needs no loop.
    """

    unit: Literal["tokens", "words"] = "words"

    def __init__(self, path: str, tokenizer: Tokenizer, device: torch.device) -> None:
        try:
            import kenlm
        except ImportError as error:
            raise ConfigError(
                f"{path} is a KenLM binary, which needs its package: pip install kenlm, or give the ARPA file"
            ) from error
        self.use(kenlm, kenlm.Model(path), _binary_words(path), tokenizer, device)

    def use(
        self, kenlm: Any, model: Any, words: Sequence[str], tokenizer: Tokenizer, device: torch.device
    ) -> None:
        """A model that the package has opened, and its words, <unk> the first."""
        self._kenlm, self._model, self._words = kenlm, model, words
        self._vocabulary = _Vocabulary(self._words, 0, tokenizer, device)
        self.start = torch.full((max(1, self._model.order - 1),), -1, device=device)
        self._state = lru_cache(maxsize=100_000)(self._read)

    def score(self, history: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        numbers = self._vocabulary.numbers(item)
        scores = []
        for words, number in zip(history.tolist(), numbers.tolist(), strict=True):
            state = self._kenlm.State()
            scores.append(self._model.BaseScore(self._state(tuple(words)), self._words[number], state) * LN10)
        score = torch.tensor(scores, dtype=torch.float64, device=item.device)
        return score, torch.cat([history[:, 1:], numbers[:, None]], 1)

    def _read(self, words: tuple[int, ...]) -> Any:
        """The state after the words, of which -1 is the sentence's begin."""
        state = self._kenlm.State()
        if words[0] < 0:
            self._model.BeginSentenceWrite(state)
        else:
            self._model.NullContextWrite(state)
        for number in words:
            if number >= 0:
                after = self._kenlm.State()
                self._model.BaseScore(state, self._words[number], after)
                state = after
        return state


def _binary_words(path: str) -> tuple[str, ...]:
    """KenLM's binary ends with its words, <unk> the first, each with a zero byte after it."""
    with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
        begin = data.rfind(b"<unk>\0")
        if begin < 0:
            raise DataError(
                f"{path}: this KenLM binary holds no words; build it again with KenLM's build_binary"
            )
        return tuple(word.decode("utf-8", "replace") for word in data[begin:].split(b"\0")[:-1])


def load(path: str, tokenizer: Tokenizer, device: torch.device) -> LanguageModel:
    """An n-gram model of the tokenizer's tokens, if all that it knows are such, else of words.

    Raises DataError: there is no such file, or it is damaged. ConfigError: a binary without the package `kenlm`.
    """
    try:
        with Path(path).open("rb") as f:
            binary = f.read(len(MAGIC)) == MAGIC
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); give an ARPA file or a KenLM binary"
        ) from error
    if binary:
        return KenLM(path, tokenizer, device)
    model = arpa.read(path)
    pieces = {tokenizer.piece(i) for i in range(tokenizer.size)}
    if set(model.words) - {"<s>", "</s>", arpa.UNKNOWN, "<UNK>"} <= pieces:
        return TokenNgrams(model, tokenizer, device)
    return WordNgrams(model, tokenizer, device)
