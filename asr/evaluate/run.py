"""How good a model is: word and character errors, delays, times and confidences, offline and streamed, and how fast."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from asr.audio import SAMPLE_RATE
from asr.dataset.corpus import speaker_of
from asr.evaluate.confidence import Reliability
from asr.evaluate.decode import decode, evaluation_loader, stream_steps
from asr.evaluate.errors import Errors, Pair, align_words, confusions, count_errors, interval
from asr.evaluate.report import Group, Report, Row, Utterance, latency_name
from asr.evaluate.times import Delays, Said, Shown, Spread, WordTimes, matches, said
from asr.text import normalizer
from asr.tokenizer import words

if TYPE_CHECKING:
    from asr.dataset import Batch
    from asr.encoders.base import Chunk
    from asr.model import Model
    from asr.search.config import SearchConfig

__all__ = ["evaluate"]

LENGTHS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # seconds that utterances are told apart by


class Tally:
    """One head at one latency, over the utterances so far."""

    def __init__(
        self,
        model: Model,
        head: str,
        latency_ms: int | None,
        search: SearchConfig | None,
        normalize: Callable[[str], str],
    ) -> None:
        self.model, self.head, self.latency_ms, self.search = model, head, latency_ms, search
        self.normalize = normalize
        self.texts: dict[str, str] = {}
        self.compute = 0.0
        self.steps: list[float] = []
        self.streams: list[int] = []
        self.delays = Delays()
        self.times, self.plain_times = WordTimes(), WordTimes()
        self.confidences: list[float] = []
        self.plain_confidences: list[float] = []
        self.right: list[bool] = []

    @property
    def name(self) -> str:
        return f"{self.head} {latency_name(self.latency_ms)}"

    def take(self, batch: Batch, truths: Sequence[Said | None]) -> None:
        """Decode a batch on the model's device; `truths` are when its references were said."""
        chunk = self.model.chunk_for(self.latency_ms)
        shown = self._decoded(batch.samples, batch.sample_lens, chunk)
        for b, (id, text) in enumerate(zip(batch.ids, batch.texts, strict=True)):
            duration = int(batch.sample_lens[b]) / SAMPLE_RATE
            self._count(id, text, shown[b], truths[b], chunk, duration)

    def _decoded(self, samples: Tensor, lens: Tensor, chunk: Chunk) -> list[Shown]:
        began = time.perf_counter()
        if chunk.full:
            found = decode(self.model, samples, lens, chunk=chunk, head=self.head, search=self.search)
            self.compute += time.perf_counter() - began
            return [Shown(emissions) for emissions in found]
        shown = [Shown() for _ in lens]
        for step in stream_steps(self.model, samples, lens, chunk=chunk, head=self.head, search=self.search):
            for b, stream in enumerate(shown):
                stream.see(step, b)
            self.compute += step.compute
            self.steps.append(step.compute)
            self.streams.append(len(shown))
        return shown

    def _count(
        self, id: str, text: str, shown: Shown, truth: Said | None, chunk: Chunk, duration: float
    ) -> None:
        tokenizer, seconds = self.model.tokenizer, self.model.frame_seconds
        self.texts[id] = tokenizer.decode([e.token for e in shown.emissions])
        plain = words(shown.emissions, tokenizer, frame_seconds=seconds, duration=duration)
        given = words(
            shown.emissions,
            tokenizer,
            frame_seconds=seconds,
            duration=duration,
            calibration=self.model.calibration(self.head, chunk),
        )
        self.right += matches(text.split(), [word.text for word in plain], self.normalize)[1]
        self.plain_confidences += [word.confidence for word in plain]
        self.confidences += [word.confidence for word in given]
        if truth is None:
            return
        self.plain_times.add(truth, plain, self.normalize)
        self.times.add(truth, given, self.normalize)
        if not chunk.full:
            self.delays.add(truth, shown, given, tokenizer, self.normalize)

    def row(self, utterances: dict[str, Utterance]) -> tuple[Row, dict[str, list[Pair]]]:
        """What all of it comes to, and the alignments."""
        wanted = {id: self.normalize(one.reference) for id, one in utterances.items()}
        got = {id: self.normalize(self.texts[id]) for id in utterances}
        aligned = {id: align_words(wanted[id].split(), got[id].split()) for id in utterances}
        errors = {id: Errors.of(pairs) for id, pairs in aligned.items()}
        row = Row(
            self.head,
            self.latency_ms,
            words=sum(errors.values(), Errors()),
            characters=count_errors(wanted.values(), got.values(), characters=True),
            utterances=len(utterances),
            audio_seconds=sum(one.seconds for one in utterances.values()),
            compute_seconds=self.compute,
            interval=interval(list(wanted.values()), list(got.values())),
            delays=self.delays.spreads(),
            step=Spread.of(self.steps),
            streams=sum(self.streams) / max(len(self.streams), 1),
            word_times=self.times.spreads(),
            plain_word_times=self.plain_times.spreads(),
            confidence=Reliability.of(self.confidences, self.right),
            plain_confidence=Reliability.of(self.plain_confidences, self.right),
            confused=confusions(aligned.values()),
            by_length=_groups(
                utterances, errors, _length, [_length_name(i) for i in range(len(LENGTHS) + 1)]
            ),
            by_speaker=_groups(utterances, errors, lambda one: one.speaker),
        )
        return row, aligned


def evaluate(
    model: Model,
    manifest: str | PathLike[str],
    *,
    latencies: Sequence[int | None] = (None,),
    heads: Sequence[str] | None = None,
    search: SearchConfig | None = None,
    batch_seconds: float = 120.0,
    limit: int | None = None,
    normalize: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Decode a manifest of Lhotse cuts with each head at each latency and compare with its transcripts.

    latencies: in milliseconds, of those that the model offers; None decodes offline, in full context.
    search: how tokens are chosen; None is greedy.
    normalize: names of `asr.text.NORMALIZERS`, put to references and hypotheses before they are compared; None
    takes the model's own (`ModelConfig.scoring`), and () compares texts as they stand.
    limit: only so many utterances, spread evenly over the manifest.
    progress: called with the utterances done and their number in all.
    Streamed rows bring the audio chunk by chunk, as the server does. The real-time factor is compute alone, without
    reading files, of one batch at a time. What is measured against forced alignment needs a CTC head.

    Raises:
        DataError: the manifest is missing, empty, or audio of it cannot be read.
        ConfigError: a normalizer, latency or head that there is not.
    """
    loader = evaluation_loader(manifest, model.tokenizer, batch_seconds, limit=limit)
    heads = tuple(model.heads) if heads is None else tuple(heads)
    put = normalizer(model.scoring if normalize is None else normalize)
    tallies = [Tally(model, head, latency, search, put) for head in heads for latency in latencies]
    cuts = (loader.manifest[i] for i in range(len(loader.manifest)))
    speakers = {cut.id: speaker_of(cut) for cut in cuts}
    utterances: dict[str, Utterance] = {}
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        for batch in loader:
            seconds = (batch.sample_lens / SAMPLE_RATE).tolist()
            for id, text, duration in zip(batch.ids, batch.texts, seconds, strict=True):
                utterances[id] = Utterance(speakers[id], duration, text)
            batch = batch.to(device)
            with torch.no_grad():
                truths = said(model, batch.samples, batch.sample_lens, batch.texts)
            for tally in tallies:
                tally.take(batch, truths)
            if progress is not None:
                progress(len(utterances), len(loader.manifest))
    finally:
        model.train(training)
    found = [(tally, *tally.row(utterances)) for tally in tallies]
    return Report(
        tuple(row for _, row, _ in found),
        {tally.name: {id: tally.texts[id] for id in utterances} for tally in tallies},
        utterances,
        {tally.name: aligned for tally, _, aligned in found},
        title=f"{manifest}",
    )


def _groups(
    utterances: dict[str, Utterance],
    errors: dict[str, Errors],
    name: Callable[[Utterance], str],
    order: Iterable[str] | None = None,
) -> tuple[Group, ...]:
    """By name, in the order given, or from the most errors per word to the fewest."""
    members: dict[str, list[str]] = defaultdict(list)
    for id, one in utterances.items():
        members[name(one)].append(id)
    groups = {
        group: Group(
            group,
            len(ids),
            sum(utterances[id].seconds for id in ids),
            sum((errors[id] for id in ids), Errors()),
        )
        for group, ids in members.items()
    }
    if order is None:
        return tuple(sorted(groups.values(), key=lambda group: (-group.words.rate, group.name)))
    return tuple(groups[group] for group in order if group in groups)


def _length(one: Utterance) -> str:
    return _length_name(sum(one.seconds >= bound for bound in LENGTHS))


def _length_name(number: int) -> str:
    if number == 0:
        return f"under {LENGTHS[0]:g} s"
    return (
        f"{LENGTHS[number - 1]:g} to {LENGTHS[number]:g} s"
        if number < len(LENGTHS)
        else f"{LENGTHS[-1]:g} s and over"
    )
