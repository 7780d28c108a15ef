"""An evaluation as one page of HTML that needs nothing else: plots, tables, the worst utterances word for word."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files

from asr.evaluate.confidence import Bin, Reliability
from asr.evaluate.errors import Confusion, Errors, Pair
from asr.evaluate.plots import Point, bars, scatter
from asr.evaluate.report import Group, Report, Row, latency_name
from asr.evaluate.times import Spread

__all__ = ["html"]

WORST = 20  # utterances that are shown of each row
SPEAKERS = 30


def html(report: Report) -> str:
    """The whole page."""
    style = files("asr.evaluate").joinpath("page.css").read_text(encoding="utf-8")
    title = f"Evaluation: {report.title}" if report.title else "Evaluation"
    body = [
        f"<h1>{escape(title)}</h1>",
        _facts(report),
        _summary(report.rows),
        _trade(report.rows),
        _delays(report.rows),
    ]
    body += [_times(report.rows)]
    for number, row in enumerate(report.rows):
        opened = " open" if number == 0 else ""
        body.append(
            f"<details{opened}><summary>{escape(row.name)}: {_percent(row.words.rate)} word errors</summary>"
        )
        body.append(f"{_details(report, row)}</details>")
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{style}</style></head>"
    )
    return f"{head}<body>{''.join(body)}</body></html>\n"


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
        cells = [row.head, latency_name(row.latency_ms), _percent(w.rate)]
        cells += [f"{100 * row.interval[0]:.1f} to {100 * row.interval[1]:.1f}"]
        cells += [str(w.substitutions), str(w.deletions), str(w.insertions), _percent(c.rate)]
        lines.append([*cells, f"{row.real_time_factor:.3f}"])
    names = "head, latency, WER, 95 % interval, substituted, deleted, inserted, CER, real-time factor".split(
        ", "
    )
    note = (
        "The interval is that of 1,000 draws of the utterances with replacement (Bisani and Ney 2004). The real-time "
        "factor is computing over audio, of whole batches."
    )
    return f"<h2>Errors</h2>{_table(names, lines, note)}"


def _trade(rows: Sequence[Row]) -> str:
    """Errors beside delay, where something was streamed."""
    heads: dict[str, list[Point]] = {}
    for row in rows:
        delay = row.delays.get("word")
        if row.latency_ms is None:
            continue
        x = 1000 * delay.mean if delay else float(row.latency_ms)
        low, high = (100 * bound for bound in row.interval)
        note = f"{row.name}: {_percent(row.words.rate)}, words shown {x:.0f} ms after they were said"
        heads.setdefault(row.head, []).append(Point(x, 100 * row.words.rate, low, high, note=note))
    if not heads:
        return ""
    series = {head: sorted(points) for head, points in heads.items()}
    plot = scatter(series, x="mean delay of a word, ms", y="word errors, %")
    return f"<h2>Errors and delay</h2>{plot}"


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
    note = (
        "Milliseconds, mean and 95th percentile. First: from the first word's beginning; token and word: from their "
        "ends; final: from the last word's end, all to the moment when a live session's audio had brought what "
        "it takes to show them for good. When something was said is known by forced alignment. Computing comes on top."
    )
    return f"<h3>Delays of a live session</h3>{_table(names, lines, note)}"


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
    note = "Milliseconds from forced alignment, mean and 95th percentile, of the words that are right."
    return f"<h2>Word times</h2>{_table(names, lines, note)}"


def _details(report: Report, row: Row) -> str:
    left = f"<h3>By length of utterance</h3>{_group_bars(row.by_length)}"
    left += f"<h3>By speaker</h3>{_group_bars(row.by_speaker[:SPEAKERS])}"
    right = _confidence(row) + f"<h3>Most frequent errors</h3>{_confused(row.confused)}"
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
    return f"<h3>Confidence</h3>{plot}<p class=note>Expected calibration error {told}.</p>"


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
            note=f"{one.count} words of confidence {one.confidence:.2f}: {_percent(one.right)} right",
        )
        for one in bins
    ]


def _confused(found: Sequence[Confusion]) -> str:
    lines = [[one.said or "(nothing)", one.heard or "(nothing)", str(one.count)] for one in found]
    return _table(["said", "heard", "times"], lines, "")


def _worst(aligned: dict[str, list[Pair]], report: Report) -> str:
    errors = {id: Errors.of(pairs) for id, pairs in aligned.items()}
    order = sorted((-e.total, id) for id, e in errors.items() if e.total)[:WORST]
    parts = []
    for _, id in order:
        e, one = errors[id], report.utterances[id]
        about = f"{id}, {one.speaker}, {one.seconds:.1f} s: {e.total} errors in {e.length} words"
        parts.append(
            f"<p class=note>{escape(about)}</p><p class=aligned>{''.join(map(_pair, aligned[id]))}</p>"
        )
    note = "What was said above what was heard: substituted, left out, or heard where nothing was said."
    return f"<h3>Worst utterances</h3><p class=note>{note}</p>{''.join(parts)}" if parts else ""


def _pair(pair: Pair) -> str:
    said, heard = pair
    kind = "" if said == heard else "more" if said is None else "gone" if heard is None else "wrong"
    return f'<span class="{kind}"><b>{escape(said or "·")}</b><b>{escape(heard or "·")}</b></span>'


def _table(names: Sequence[str], lines: Sequence[Sequence[str]], note: str) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in line)}</tr>" for line in lines)
    caption = f"<caption>{escape(note)}</caption>" if note else ""
    return f"<div class=wide><table>{caption}<tr>{head}</tr>{rows}</table></div>"


def _percent(rate: float) -> str:
    return f"{100 * rate:.2f} %"


def _ms(spread: Spread | None) -> str:
    return "" if spread is None else f"{1000 * spread.mean:.0f}, {1000 * spread.p95:.0f}"
