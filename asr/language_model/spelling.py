"""Words told apart by a hash of their UTF-8, which tokens build up: the same however a word is cut into tokens."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from asr.tokenizer import Tokenizer

__all__ = ["Spelling", "hashes"]

_BASE = 0x9E3779B97F4A7C15  # odd, so that nothing is lost when it multiplies modulo 2 ** 64


class Spelling:
    """For each token of a tokenizer, how it changes the hash of the word that is being spelt; 0 is no letter yet.

    begins: (V,) the token closes the word before it and opens a new one.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        texts = [_written(tokenizer, token) for token in range(tokenizer.size)]
        self.begins = torch.tensor([text.startswith(b" ") for text in texts])
        pairs = [_polynomial(text.lstrip(b" ")) for text in texts]
        self._factor = torch.tensor([_signed(factor) for factor, _ in pairs])
        self._term = torch.tensor([_signed(term) for _, term in pairs])

    def to(self, device: torch.device) -> Spelling:
        moved = object.__new__(Spelling)
        moved.begins, moved._factor, moved._term = (
            x.to(device) for x in (self.begins, self._factor, self._term)
        )
        return moved

    def add(self, word: Tensor, token: Tensor) -> Tensor:
        """Hashes of open words, and the token that follows each -> the hashes of the words then open."""
        return torch.where(self.begins[token], 0, word) * self._factor[token] + self._term[token]


@lru_cache(maxsize=8)
def spelling(tokenizer: Tokenizer) -> Spelling:
    return Spelling(tokenizer)


def hashes(words: Sequence[str]) -> Tensor:
    """(N,) int64."""
    return torch.tensor([_signed(_polynomial(word.encode())[1]) for word in words], dtype=torch.int64)


def _written(tokenizer: Tokenizer, token: int) -> bytes:
    piece = tokenizer.piece(token)
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)])
    if token == 0:
        return b""
    return piece.replace("▁", " ").encode()


def _polynomial(text: bytes) -> tuple[int, int]:
    factor, term = 1, 0
    for byte in text:
        factor, term = factor * _BASE % 2**64, (term * _BASE + byte + 1) % 2**64
    return factor, term


def _signed(number: int) -> int:
    return number - 2**64 if number >= 2**63 else number
