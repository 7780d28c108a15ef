"""Texts without audio -> batches, for language models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from asr.dataset.cuts import text_of
from asr.dataset.loader import Batch
from asr.dataset.manifest import Manifest
from asr.dataset.sampler import Sampler, resumed
from asr.errors import DataError
from asr.search.phrases import as_written
from asr.tokenizer import Tokenizer

__all__ = ["TextDataConfig", "Texts", "read_texts"]


@dataclass(frozen=True, kw_only=True)
class TextDataConfig:
    """Texts: files of a text a line (.txt, in UTF-8), or manifests, whose transcripts are taken.

    They are brought into the model's case. `max_tokens` of a batch, padding and ends included; a text of more than
    `longest` tokens is cut into pieces of it.
    """

    train: tuple[Path, ...]
    dev: tuple[Path, ...] = ()
    max_tokens: int = 2000
    longest: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.longest < self.max_tokens:
            raise ValueError("longest must be at least 1 and below max_tokens")


def read_texts(path: Path) -> Iterator[tuple[str, str]]:
    """Where each text stands, and the text. Raises DataError: the file cannot be read."""
    if path.suffix != ".txt":
        manifest = Manifest((path,))
        for i in range(len(manifest)):
            yield manifest.where(i), text_of(manifest[i], case="keep")
        return
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path}, line {number}", line.strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); give a text a line, in UTF-8") from error


class Texts:
    """An iterable of batches without samples; for the rest like `Loader`, whose words it takes.

    Raises DataError: no text; a text with a character that the tokenizer cannot write.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        config: TextDataConfig,
        tokenizer: Tokenizer,
        *,
        training: bool,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.epoch = self.batch = 0
        self._seed, self._tokenizer = config.seed, tokenizer
        pieces: list[list[int]] = []
        for path in paths:
            for where, text in read_texts(path):
                try:
                    tokens = tokenizer.encode(as_written(text, tokenizer))
                except DataError as error:
                    raise DataError(f"{where}: {error}") from error
                cuts = range(0, len(tokens), config.longest)
                pieces += [tokens[begin : begin + config.longest] for begin in cuts]
        if not pieces:
            raise DataError(f"no text in {', '.join(map(str, paths)) or 'an empty list of files'}")
        lens = np.array([len(tokens) for tokens in pieces])
        self._ends = np.concatenate([[0], np.cumsum(lens)])
        self._tokens = np.concatenate([np.array(tokens, dtype=np.int32) for tokens in pieces])
        self._sampler = Sampler(
            lens + 1.0,
            max_duration=config.max_tokens,
            seed=config.seed,
            shuffle=training,
            rank=rank,
            world_size=world_size,
        )

    @property
    def size(self) -> str:
        """How much there is in an epoch, in words."""
        return f"{len(self._tokens):,} tokens in {len(self._ends) - 1:,} texts"

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[Batch]:
        epoch, first = self.epoch, self.batch
        for number, plan in enumerate(self._sampler.plan(epoch).after(first), first + 1):
            self.epoch, self.batch = (epoch, number) if number < len(self) else (epoch + 1, 0)
            yield self._collate(plan.indices)

    def _collate(self, indices: Sequence[int]) -> Batch:
        each = [self._tokens[self._ends[i] : self._ends[i + 1]].tolist() for i in indices]
        rows = [torch.tensor(tokens, dtype=torch.int64) for tokens in each]
        return Batch(
            ids=tuple(map(str, indices)),
            samples=torch.zeros(len(rows), 0),
            sample_lens=torch.zeros(len(rows), dtype=torch.int64),
            tokens=torch.nn.utils.rnn.pad_sequence(rows, batch_first=True),
            token_lens=torch.tensor([len(row) for row in rows]),
            texts=tuple(map(self._tokenizer.decode, each)),
        )

    def state_dict(self) -> dict[str, int]:
        order = {"seed": self._seed, "utterances": len(self._ends) - 1, "batches": len(self)}
        return {"epoch": self.epoch, "batch": self.batch, **order, "processes": self._sampler.world_size}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Raises DataError: the texts are others now."""
        self.epoch, self.batch = resumed(state, self.state_dict(), "the texts")
