"""Manifests -> batches of audio and tokens."""

from __future__ import annotations

import dataclasses
import logging
import multiprocessing
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from lhotse.cut import Cut
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from asr.audio import SAMPLE_RATE
from asr.dataset.augment import Pipeline
from asr.dataset.config import DataConfig
from asr.dataset.cuts import Cache, Samples, resample, text_of
from asr.dataset.manifest import Manifest
from asr.dataset.sampler import Sampler, resumed
from asr.errors import DataError

__all__ = ["Batch", "Encodes", "Loader"]

log = logging.getLogger(__name__)


class Encodes(Protocol):
    """What the loader needs of a tokenizer."""

    def encode(self, text: str) -> list[int]: ...


@dataclass(frozen=True)
class Batch:
    """B utterances of at most S samples and L tokens, zero-padded.

    samples (B, S) float32 at 16 kHz, sample_lens (B,) int64, tokens (B, L) int64, token_lens (B,) int64.
    """

    ids: tuple[str, ...]
    samples: Tensor
    sample_lens: Tensor
    tokens: Tensor
    token_lens: Tensor
    texts: tuple[str, ...]

    def pin_memory(self) -> Batch:
        """The same in page-locked memory; torch's loader calls this where it feeds a GPU."""
        return self._each(Tensor.pin_memory)

    def to(self, device: torch.device | str) -> Batch:
        """The same with its tensors on `device`."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def _each(self, f: Callable[[Tensor], Tensor]) -> Batch:
        return dataclasses.replace(
            self,
            samples=f(self.samples),
            sample_lens=f(self.sample_lens),
            tokens=f(self.tokens),
            token_lens=f(self.token_lens),
        )


@dataclass(frozen=True)
class _Loaded:
    """A batch without the utterances that could not be read; their messages go to the main process, as torch would
    hide an error of a worker in its traceback. `seen` counts the good and the bad."""

    batch: Batch | None
    seen: int
    bad: tuple[str, ...]


class _Batches(Dataset[_Loaded]):
    """The batches of an epoch from `first` on, loaded on demand in whichever process asks. What is random follows from
    the seed and the batch's place in the epoch."""

    def __init__(self, loader: Loader, epoch: int, first: int) -> None:
        config = loader.config
        self.plan, self.first = loader.sampler.plan(epoch).after(first), first
        self.manifest, self.tokenizer, self.cache = loader.manifest, loader.tokenizer, loader.cache
        self.case, self.pause = config.case, config.joining.pause if config.joining else 0.0
        self.pipeline = loader.pipeline if epoch >= config.plain_epochs else None
        self.seed = (config.seed, epoch, 4 + loader.sampler.rank)

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, number: int) -> _Loaded:
        plan = self.plan[number]
        ids, audio, texts, tokens, bad = [], [], [], [], []
        end = 0
        for place, size in enumerate(plan.sizes):
            end += size
            parts: list[tuple[str, Samples, str]] = []
            for index, speed in zip(
                plan.indices[end - size : end], plan.speeds[end - size : end], strict=True
            ):
                try:
                    cut, samples = self._load(index, speed)
                    parts.append((cut.id, samples, text_of(cut, case=self.case)))
                except DataError as error:
                    bad.append(f"{self.manifest.where(index)}: {error}")
            if not parts:
                continue
            text = " ".join(text for _, _, text in parts)
            try:
                tokens.append(torch.tensor(self.tokenizer.encode(text), dtype=torch.int64))
            except DataError as error:
                bad.append(f"{self.manifest.where(plan.indices[end - size])}: {error}")
                continue
            samples = self._joined([samples for _, samples, _ in parts])
            if self.pipeline is not None:
                random = np.random.default_rng((*self.seed, self.first + number, place))
                samples = self.pipeline(samples, random)
            ids.append("+".join(id for id, _, _ in parts))
            audio.append(torch.from_numpy(samples))
            texts.append(text)
        return _Loaded(_collate(ids, audio, texts, tokens) if ids else None, end, tuple(bad))

    def _load(self, index: int, speed: float) -> tuple[Cut, Samples]:
        if self.cache is None:
            return self.manifest.load(index, speed=speed)
        if (samples := self.cache.get(index)) is not None:
            cut = self.manifest[index]
        else:
            cut, samples = self.manifest.load(index)
            samples = self.cache.put(index, samples)
        return cut, resample(samples, SAMPLE_RATE * speed)

    def _joined(self, parts: list[Samples]) -> Samples:
        silence = np.zeros(round(self.pause * SAMPLE_RATE), dtype=np.float32)
        return np.concatenate([piece for part in parts for piece in (silence, part)][1:])


def _collate(ids: list[str], samples: list[Tensor], texts: list[str], tokens: list[Tensor]) -> Batch:
    return Batch(
        ids=tuple(ids),
        samples=torch.nn.utils.rnn.pad_sequence(samples, batch_first=True),
        sample_lens=torch.tensor([len(one) for one in samples]),
        tokens=torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True),
        token_lens=torch.tensor([len(one) for one in tokens]),
        texts=tuple(texts),
    )


def _read(batches: Iterable[_Loaded]) -> Iterator[_Loaded]:
    """Raises DataError where a process that reads was killed."""
    try:
        yield from batches
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(
            f"a process that reads data has ended ({str(error).splitlines()[0]}), most likely as memory ran out: take "
            "fewer of data.workers, or data.cache=false"
        ) from error


class Loader:
    """An iterable of batches: each `iter` goes through the rest of the current epoch, then moves on to the
    next.

    With `training`, utterances outside the configured lengths are left out, and epochs are shuffled, weighted
    and augmented; else every utterance comes once, as it is, from long to short. `leave_out` are
    (file, line) of the manifests that validation found bad; `limit` takes so many of the rest, spread evenly.
    An utterance whose audio cannot be read, or whose text has no tokens, is logged, left out and counted in `skipped`.
    The batches depend on the seed and the epoch alone; `state_dict` counts those handed out, so a resumed loader goes
    on with the next one, at once.

    Raises:
        DataError: no utterance to train on; while iterating, more utterances whose audio cannot be read than
            `config.bad_share` of those that came so far.
    """

    def __init__(
        self,
        places: Sequence[str | Path],
        config: DataConfig,
        tokenizer: Encodes,
        *,
        training: bool,
        weights: Sequence[float] = (),
        leave_out: Collection[tuple[str, int]] = (),
        limit: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.config, self.tokenizer = config, tokenizer
        self.manifest = Manifest(places, leave_out=leave_out, limit=limit)
        self.epoch = 0
        self.batch = 0
        self.skipped: dict[str, None] = {}
        """A message for each utterance left out because its audio could not be read."""
        self._seen = 0
        durations = self.manifest.durations
        each = (
            np.array(weights or [1.0] * len(places))[self.manifest.owner] if len(durations) else np.zeros(0)
        )
        if training:
            inside = (durations >= config.min_seconds) & (durations <= config.max_seconds)
            each = np.where(inside, each, 0.0)
            if outside := int((~inside).sum()):
                log.info(
                    "%d of %d utterances are shorter than %g s or longer than %g s and are left out",
                    outside, len(inside), config.min_seconds, config.max_seconds,
                )  # fmt: skip
        if not each.any():
            raise DataError(
                f"no utterances to use in {', '.join(map(str, places)) or 'an empty list of manifests'}"
            )
        self.seconds = float((durations * each).sum())
        """Of speech in an epoch, before speed perturbation."""
        self.pipeline = Pipeline(config.augment) if training else None
        self.sampler = Sampler(
            durations,
            max_duration=config.max_duration,
            weights=each,
            owner=self.manifest.owner,
            speeds=config.speeds,
            joining=config.joining,
            shards=self.manifest.shards,
            shards_at_once=config.shards_at_once,
            plain_epochs=config.plain_epochs,
            jitter=config.jitter,
            seed=config.seed,
            shuffle=training,
            rank=rank,
            world_size=world_size,
        )
        self.cache = Cache(np.ceil(durations * SAMPLE_RATE).astype(np.int64) + 2) if config.cache else None

    @property
    def size(self) -> str:
        """How much there is in an epoch, in words."""
        return f"{self.seconds / 3600:.2f} h of speech"

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        epoch, first = self.epoch, self.batch
        dataset = _Batches(self, epoch, first)
        workers = min(self.config.workers, len(dataset), os.cpu_count() or 1)
        # Forked workers share the manifest and the cache; elsewhere each gets a copy.
        fork = "fork" if workers and "fork" in multiprocessing.get_all_start_methods() else None
        batches = DataLoader(
            dataset,
            batch_size=None,
            num_workers=workers,
            multiprocessing_context=fork,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # else torch would draw from the global one, which the model draws from
        )
        for number, loaded in enumerate(_read(batches), first + 1):
            # Before the yield: while a batch is trained on, be it the last, the state is that after it.
            self.epoch, self.batch = (epoch, number) if number < len(self) else (epoch + 1, 0)
            self._count(loaded)
            if loaded.batch is not None:
                yield loaded.batch

    def _count(self, loaded: _Loaded) -> None:
        self._seen += loaded.seen
        for message in loaded.bad:
            if message not in self.skipped:
                log.warning("left out: %s", message)
            self.skipped[message] = None
        # A share of few says little: the first thousand, or the corpus where it is smaller, are taken together.
        counted = max(self._seen, min(len(self.manifest), 1000))
        if len(self.skipped) > self.config.bad_share * counted:
            raise DataError(
                f"{len(self.skipped)} utterances of {counted} cannot be read, more than data.bad_share="
                f"{self.config.bad_share:g} allows: {'; '.join(list(self.skipped)[:3])}. Is the disk there? "
                "`asr prepare` again, or allow more"
            )

    def state_dict(self) -> dict[str, int]:
        """Where the loader stands, and what the order depends on."""
        order = {"seed": self.config.seed, "utterances": len(self.manifest), "batches": len(self)}
        return {"epoch": self.epoch, "batch": self.batch, **order, "processes": self.sampler.world_size}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where a loader with the same manifests and settings stood, of any number of processes.

        Raises:
            DataError: the order is another one now (manifests, batch size or seed changed); set `epoch` instead, to go
                on at an epoch's beginning.
        """
        self.epoch, self.batch = resumed(state, self.state_dict(), "the training data")
