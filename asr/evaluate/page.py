"""An evaluation as one page of HTML that needs nothing else: plots, tables, the worst utterances word for word."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from asr.evaluate.confidence import Bin, Reliability
from asr.evaluate.errors import Confusion, Errors, Pair
from asr.evaluate.report import Group, Report, Row, latency_name
from asr.evaluate.times import Spread
from asr.pages.blocks import LEGEND, aligned, details, document, heading, note, percent, table
from asr.pages.plots import Point, bars, scatter

__all__ = ["html"]

WORST = 20  # utterances that are shown of each row
SPEAKERS = 30


def html(report: Report) -> str:
    """The whole page."""
    title = f"Evaluation: {report.title}" if report.title else "Evaluation"
    body = [
        _facts(report),
        _summary(report.rows),
        _trade(report.rows),
        _delays(report.rows),
        _times(report.rows),
    ]
    for number, row in enumerate(report.rows):
        summary = f"{row.name}: {percent(row.words.rate)} word errors"
        body.append(details(summary, _details(report, row), opened=number == 0))
    return document(title, body)


def _facts(report: Report) -> str:
    if not report.rows:
        return "<p>Nothing was decoded.</p>"
    row = report.rows[0]
    speakers = len({one.speaker for one in report.utterances.values()})
    return (
        f"<p>{row.utterances} utterances of {speakers} speakers, {row.words.length} words, "
        f"{row.audio_seconds / 60:.1f} minutes of audio.</p>"
    )


def _summary(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        w, c = row.words, row.characters
        cells = [row.head, latency_name(row.latency_ms), percent(w.rate)]
        cells += [f"{100 * row.interval[0]:.1f} to {100 * row.interval[1]:.1f}"]
        cells += [str(w.substitutions), str(w.deletions), str(w.insertions), percent(c.rate)]
        lines.append([*cells, f"{row.real_time_factor:.3f}"])
    names = "head, latency, WER, 95 % interval, substituted, deleted, inserted, CER, real-time factor".split(
        ", "
    )
    caption = (
        "The interval is that of 1,000 draws of the utterances with replacement (Bisani and Ney 2004). The real-time "
        "factor is computing over audio, of whole batches."
    )
    return heading("Errors") + table(names, lines, caption)


def _trade(rows: Sequence[Row]) -> str:
    """Errors beside delay, where something was streamed."""
    heads: dict[str, list[Point]] = {}
    for row in rows:
        delay = row.delays.get("word")
        if row.latency_ms is None:
            continue
        x = 1000 * delay.mean if delay else float(row.latency_ms)
        low, high = (100 * bound for bound in row.interval)
        note = f"{row.name}: {percent(row.words.rate)}, words shown {x:.0f} ms after they were said"
        heads.setdefault(row.head, []).append(Point(x, 100 * row.words.rate, low, high, note=note))
    if not heads:
        return ""
    series = {head: sorted(points) for head, points in heads.items()}
    plot = scatter(series, x="mean delay of a word, ms", y="word errors, %")
    return heading("Errors and delay") + plot


def _delays(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        if row.delays:
            cells = [_ms(row.delays.get(name)) for name in ("first", "token", "word", "final")]
            computing = _ms(row.step)
            lines.append([row.head, latency_name(row.latency_ms), *cells, computing, f"{row.streams:.0f}"])
    if not lines:
        return ""
    names = "head, latency, first token, token, word, final text, a step computes, streams in it".split(", ")
    caption = (
        "Milliseconds, mean and 95th percentile. First: from the first word's beginning; token and word: from their "
        "ends; final: from the last word's end, all to the moment when a live session's audio had brought what "
        "it takes to show them for good. When something was said is known by forced alignment. Computing comes on top."
    )
    return heading("Delays of a live session", level=3) + table(names, lines, caption)


def _times(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        for name, times in (("uncalibrated", row.plain_word_times), ("as given", row.word_times)):
            if times and (name == "as given" or times != row.word_times):
                cells = [_ms(times.get("start")), _ms(times.get("end")), str(times["start"].count)]
                lines.append([row.head, latency_name(row.latency_ms), name, *cells])
    if not lines:
        return ""
    names = ["head", "latency", "times", "start is off by", "end is off by", "words"]
    caption = "Milliseconds from forced alignment, mean and 95th percentile, of the words that are right."
    return heading("Word times") + table(names, lines, caption)


def _details(report: Report, row: Row) -> str:
    left = heading("By length of utterance", level=3) + _group_bars(row.by_length)
    left += heading("By speaker", level=3) + _group_bars(row.by_speaker[:SPEAKERS])
    right = _confidence(row) + heading("Most frequent errors", level=3) + _confused(row.confused)
    worst = _worst(report.aligned.get(row.name, {}), report)
    return f"<div class=two><div>{left}</div><div>{right}</div></div>{worst}"


def _group_bars(groups: Sequence[Group]) -> str:
    rows = [
        (g.name, 100 * g.words.rate, f"{g.words.length} words, {g.utterances} utterances") for g in groups
    ]
    return bars(rows, unit=" %")


def _confidence(row: Row) -> str:
    if row.confidence is None or row.plain_confidence is None:
        return ""
    series = {"as given": _bins(row.confidence.bins)}
    told = _told("as given", row.confidence)
    if row.confidence != row.plain_confidence:
        series["uncalibrated"] = _bins(row.plain_confidence.bins)
        told = f"{told}; {_told('uncalibrated', row.plain_confidence)}"
    plot = scatter(series, x="confidence", y="share of right words", x_top=1, y_top=1, diagonal=True)
    return heading("Confidence", level=3) + plot + note(f"Expected calibration error {told}.")


def _told(name: str, found: Reliability) -> str:
    return f"{name} {found.error:.3f} (normalized cross entropy {found.cross_entropy:.2f})"


def _bins(bins: Iterable[Bin]) -> list[Point]:
    bins = list(bins)
    most = max(one.count for one in bins)
    return [
        Point(
            one.confidence,
            one.right,
            size=3 + 5 * (one.count / most) ** 0.5,
            note=f"{one.count} words of confidence {one.confidence:.2f}: {percent(one.right)} right",
        )
        for one in bins
    ]


def _confused(found: Sequence[Confusion]) -> str:
    lines = [[one.said or "(nothing)", one.heard or "(nothing)", str(one.count)] for one in found]
    return table(["said", "heard", "times"], lines)


def _worst(found: dict[str, list[Pair]], report: Report) -> str:
    errors = {id: Errors.of(pairs).total for id, pairs in found.items()}
    order = sorted((-total, id) for id, total in errors.items() if total)[:WORST]
    parts = []
    for _, id in order:
        one = report.utterances[id]
        parts.append(aligned(f"{id}, {one.speaker}, {one.seconds:.1f} s", found[id]))
    return heading("Worst utterances", level=3) + note(LEGEND) + "".join(parts) if parts else ""


def _ms(spread: Spread | None) -> str:
    return "" if spread is None else f"{1000 * spread.mean:.0f}, {1000 * spread.p95:.0f}"
