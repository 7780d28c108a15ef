"""How good a model is: word and character errors, offline and streamed at each latency, and how fast."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import kaldialign
import torch
from torch import Tensor

from asr.audio import SAMPLE_RATE
from asr.dataset import DataConfig, Loader

if TYPE_CHECKING:
    from rich.table import Table

    from asr.encoders.base import Chunk
    from asr.heads.base import Emission
    from asr.model import Model
    from asr.tokenizer import Tokenizer

__all__ = [
    "Errors",
    "Report",
    "Row",
    "count_errors",
    "decode",
    "decode_frames",
    "evaluate",
    "spread_loader",
    "stream",
]


@dataclass(frozen=True)
class Errors:
    """What turns references into hypotheses: counts over words or characters."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    length: int = 0  # words or characters of the references

    @property
    def total(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors per reference word: 0.05 is 5 %. Of no words at all, the number of insertions."""
        return self.total / max(self.length, 1)

    def __add__(self, other: Errors) -> Errors:
        return Errors(
            *(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True))
        )


@dataclass(frozen=True)
class Row:
    """One way to decode: a head at a latency; `latency_ms` None is offline."""

    head: str
    latency_ms: int | None
    words: Errors
    characters: Errors
    utterances: int
    audio_seconds: float
    compute_seconds: float

    @property
    def real_time_factor(self) -> float:
        return self.compute_seconds / max(self.audio_seconds, 1e-9)


@dataclass(frozen=True)
class Report:
    """What `evaluate` found. Print `table()` with rich, or keep `to_json()`."""

    rows: tuple[Row, ...]
    hypotheses: dict[str, dict[str, str]]  # of "head latency": text by utterance id
    references: dict[str, str]

    def table(self) -> Table:
        from rich.table import Table

        table = Table("head", "latency", "WER %", "S / D / I", "CER %", "real-time factor")
        for column in table.columns[1:]:
            column.justify = "right"
        for row in self.rows:
            w = row.words
            table.add_row(
                row.head,
                _latency(row.latency_ms),
                f"{100 * w.rate:.2f}",
                f"{w.substitutions} / {w.deletions} / {w.insertions}",
                f"{100 * row.characters.rate:.2f}",
                f"{row.real_time_factor:.3f}",
            )
        if self.rows:
            row = self.rows[0]
            table.caption = (
                f"{row.utterances} utterances, {row.words.length} words, {row.audio_seconds / 60:.1f} min"
            )
        return table

    def to_json(self) -> str:
        rows = [
            {
                **dataclasses.asdict(row),
                "wer": row.words.rate,
                "cer": row.characters.rate,
                "real_time_factor": row.real_time_factor,
            }
            for row in self.rows
        ]
        return json.dumps(
            {"rows": rows, "hypotheses": self.hypotheses, "references": self.references}, indent=1
        )


def _latency(latency_ms: int | None) -> str:
    return "offline" if latency_ms is None else f"{latency_ms} ms"


def count_errors(references: Iterable[str], hypotheses: Iterable[str], *, characters: bool = False) -> Errors:
    """Errors of the best alignment of each pair of texts, summed; of characters, with spaces counted as one each."""
    total = Errors()
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        ref, hyp = reference.split(), hypothesis.split()
        if characters:
            ref, hyp = list(" ".join(ref)), list(" ".join(hyp))
        found = kaldialign.edit_distance(ref, hyp)
        total += Errors(found["sub"], found["del"], found["ins"], len(ref))
    return total


@torch.no_grad()
def decode(
    model: Model, samples: Tensor, lens: Tensor, *, chunk: Chunk, head: str | None = None
) -> list[list[Emission]]:
    """(B, S) samples, (B,) lengths -> the emissions of each utterance, seen whole with the context of `chunk`.

    That gives what a live session of that chunk gives (see `stream`) at the price of offline decoding.
    """
    y, y_lens = model.encode(*model.flushed(_cleared(samples, lens), lens), chunk)
    return decode_frames(model, y, y_lens, head)


def decode_frames(model: Model, y: Tensor, y_lens: Tensor, head: str | None = None) -> list[list[Emission]]:
    """The encoder's frames (B, U, D), (B,) of whole utterances -> the emissions of each."""
    decoder = model.head(head)
    emissions, _ = decoder.step(y, y_lens, decoder.init_state(len(y)))
    return emissions


@torch.no_grad()
def stream(
    model: Model, samples: Tensor, lens: Tensor, *, chunk: Chunk, head: str | None = None
) -> list[list[Emission]]:
    """The same, with the audio coming chunk by chunk, as a live session brings it."""
    samples, lens = model.flushed(_cleared(samples, lens), lens)
    state = model.init_state(len(samples), chunk, head)
    found: list[list[Emission]] = [[] for _ in range(len(samples))]
    first, following = model.samples_first(chunk), model.samples_next(chunk)
    # What the look-ahead still holds back comes out in the chunk after the last sample.
    steps = max(0, -(-(int(lens.max()) - first) // following)) + 1
    samples = torch.nn.functional.pad(samples, (0, max(0, first + steps * following - samples.shape[1])))
    start = 0
    for i in range(steps + 1):
        size = following if i else first
        real = (lens - start).clamp(0, size)
        emissions, state = model.step(samples[:, start : start + size], real, state, chunk, head)
        for all_of_one, new in zip(found, emissions, strict=True):
            all_of_one += new
        start += size
    return found


def _cleared(samples: Tensor, lens: Tensor) -> Tensor:
    """Zeros after each utterance's end: what is there in a batch would be heard in the silence that flushes it."""
    after = torch.arange(samples.shape[1], device=lens.device) >= lens[:, None]
    return samples.masked_fill(after, 0.0)


def spread_loader(
    paths: Sequence[Path], config: DataConfig, tokenizer: Tokenizer, *, limit: int | None = None
) -> Loader:
    """All of the manifests' utterances, or `limit` of them spread evenly, from long to short."""
    return Loader(paths, config, tokenizer, training=False, limit=limit)


def evaluate(
    model: Model,
    manifest: str | PathLike[str],
    *,
    latencies: Sequence[int | None] = (None,),
    heads: Sequence[str] | None = None,
    batch_seconds: float = 120.0,
    limit: int | None = None,
    normalize: Callable[[str], str] | None = str.lower,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Decode a manifest of Lhotse cuts with each head at each latency and compare with its transcripts.

    latencies: in milliseconds, of those that the model offers; None decodes offline, in full context.
    normalize: put to references and hypotheses before they are compared; None compares them as they stand.
    limit: only so many utterances, spread evenly over the manifest.
    progress: called with the utterances done and their number in all.
    Streamed rows bring the audio chunk by chunk, as the server does. The real-time factor is compute alone, without
    reading files, of one batch at a time.

    Raises:
        DataError: the manifest is missing, empty, or audio of it cannot be read.
    """
    config = DataConfig(
        train=(),
        max_duration=batch_seconds,
        max_seconds=batch_seconds,
        speeds=(1.0,),
        workers=0,
        bad_share=0.0,
    )
    loader = spread_loader((Path(manifest),), config, model.tokenizer, limit=limit)
    heads = tuple(model.heads) if heads is None else tuple(heads)
    normalize = normalize or (lambda text: text)
    ways = [(head, latency) for head in heads for latency in latencies]
    hypotheses: dict[tuple[str, int | None], dict[str, str]] = {way: {} for way in ways}
    references: dict[str, str] = {}
    compute = dict.fromkeys(ways, 0.0)
    audio_seconds = 0.0
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        for batch in loader:
            references |= dict(zip(batch.ids, batch.texts, strict=True))
            audio_seconds += float(batch.sample_lens.sum()) / SAMPLE_RATE
            samples, lens = batch.samples.to(device), batch.sample_lens.to(device)
            for head, latency in ways:
                start = time.perf_counter()
                chunk = model.chunk_for(latency)
                way = decode if chunk.full else stream
                found = way(model, samples, lens, chunk=chunk, head=head)
                texts = [model.tokenizer.decode([e.token for e in emissions]) for emissions in found]
                compute[head, latency] += time.perf_counter() - start
                hypotheses[head, latency] |= dict(zip(batch.ids, texts, strict=True))
            if progress is not None:
                progress(len(references), len(loader.manifest))
    finally:
        model.train(training)
    wanted = [normalize(text) for text in references.values()]
    rows = []
    for head, latency in ways:
        got = [normalize(hypotheses[head, latency][id]) for id in references]
        words, characters = count_errors(wanted, got), count_errors(wanted, got, characters=True)
        rows.append(
            Row(head, latency, words, characters, len(references), audio_seconds, compute[head, latency])
        )
    named = {f"{head} {_latency(latency)}": texts for (head, latency), texts in hypotheses.items()}
    return Report(tuple(rows), named, references)
