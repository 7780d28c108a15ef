"""What an evaluation found: a table for the terminal, JSON, and (`asr.evaluate.page`) a page."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from asr.evaluate.confidence import Reliability
from asr.evaluate.errors import Confusion, Errors, Pair
from asr.evaluate.times import Spread

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Group", "Report", "Row", "Utterance", "latency_name"]


@dataclass(frozen=True)
class Group:
    """Utterances that have something in common: their speaker, or about their length."""

    name: str
    utterances: int
    audio_seconds: float
    words: Errors


@dataclass(frozen=True)
class Utterance:
    """One of a manifest's: who spoke, for how long, what was said."""

    speaker: str
    seconds: float
    reference: str


@dataclass(frozen=True)
class Row:
    """One way to decode: a head at a latency; `latency_ms` None is offline. Times are in seconds.

    interval: of the word error rate, 95 % (see `asr.evaluate.errors.interval`).
    delays: of a live session, see `asr.evaluate.times.Delays`; empty offline, or without a CTC head to align with.
    step: computing of one step of `streams` streams, which comes on top of the delays; None offline.
    word_times: how far starts and ends of right words are from forced alignment, and confidence: whether words are
    right as often as it says; both as the model gives them, and `plain`, as they were without its calibration.
    """

    head: str
    latency_ms: int | None
    words: Errors
    characters: Errors
    utterances: int
    audio_seconds: float
    compute_seconds: float
    interval: tuple[float, float] = (0.0, 0.0)
    delays: dict[str, Spread] = field(default_factory=dict)
    step: Spread | None = None
    streams: float = 0.0
    word_times: dict[str, Spread] = field(default_factory=dict)
    plain_word_times: dict[str, Spread] = field(default_factory=dict)
    confidence: Reliability | None = None
    plain_confidence: Reliability | None = None
    confused: tuple[Confusion, ...] = ()
    by_length: tuple[Group, ...] = ()
    by_speaker: tuple[Group, ...] = ()

    @property
    def name(self) -> str:
        """As in "ctc 450 ms"."""
        return f"{self.head} {latency_name(self.latency_ms)}"

    @property
    def real_time_factor(self) -> float:
        return self.compute_seconds / max(self.audio_seconds, 1e-9)


@dataclass(frozen=True)
class Report:
    """What `evaluate` found. Print `table()` with rich, keep `to_json()`, or read `asr.evaluate.page.html`.

    hypotheses: of "head latency" (`Row.name`): text by utterance id, as decoded; aligned: the same, normalized, word
    for word against the reference. title: what was measured.
    """

    rows: tuple[Row, ...]
    hypotheses: dict[str, dict[str, str]]
    utterances: dict[str, Utterance]
    aligned: dict[str, dict[str, list[Pair]]] = field(default_factory=dict)
    title: str = ""

    @property
    def references(self) -> dict[str, str]:
        return {id: utterance.reference for id, utterance in self.utterances.items()}

    def table(self) -> Table:
        from rich.table import Table

        table = Table(
            "head", "latency", "WER %", "95 %", "S / D / I", "CER %", "first, word, final ms", "real-time factor"
        )  # fmt: skip
        for column in table.columns[1:]:
            column.justify = "right"
        for row in self.rows:
            w = row.words
            low, high = row.interval
            table.add_row(
                row.head,
                latency_name(row.latency_ms),
                f"{100 * w.rate:.2f}",
                f"{100 * low:.1f} to {100 * high:.1f}",
                f"{w.substitutions} / {w.deletions} / {w.insertions}",
                f"{100 * row.characters.rate:.2f}",
                ", ".join(
                    f"{1000 * row.delays[name].mean:.0f}"
                    for name in ("first", "word", "final")
                    if name in row.delays
                ),
                f"{row.real_time_factor:.3f}",
            )
        if self.rows:
            row = self.rows[0]
            table.caption = (
                f"{row.utterances} utterances, {row.words.length} words, {row.audio_seconds / 60:.1f} min; delays are "
                "means, from what was said to what is shown live, without computing"
            )
        return table

    def to_json(self) -> str:
        """All of it but the alignments, which follow from the texts."""
        rows = [
            {
                **dataclasses.asdict(row),
                "wer": row.words.rate,
                "cer": row.characters.rate,
                "real_time_factor": row.real_time_factor,
            }
            for row in self.rows
        ]
        tree = {
            "title": self.title,
            "rows": rows,
            "hypotheses": self.hypotheses,
            "references": self.references,
            "utterances": {id: dataclasses.asdict(one) for id, one in self.utterances.items()},
        }
        return json.dumps(tree, indent=1, ensure_ascii=False)


def latency_name(latency_ms: int | None) -> str:
    return "offline" if latency_ms is None else f"{latency_ms} ms"
