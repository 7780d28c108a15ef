"""The report of a training run: one page of HTML that needs nothing else, made of what lies in the run's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from asr.errors import DataError
from asr.evaluate.errors import Errors, Pair, align_words
from asr.pages.blocks import (
    LEGEND,
    aligned,
    details,
    document,
    facts,
    heading,
    note,
    percent,
    picture,
    source,
    table,
)
from asr.pages.plots import curves
from asr.training.checkpoints import RunFolder, write_whole
from asr.training.history import Told, read_history

__all__ = ["html", "write_report"]

WORST, BEST = 10, 5  # utterances that are shown

Curves = Mapping[str, Sequence[tuple[int, float]]]

RUNNING = ("learning rate", "gradient norm", "clipped to", "epochs", "hours", "utterances left out")
MEASURED = (" per second", " in a batch", "share of padding", "share of time that waits for data")
"""Of the curves under `train/`, those that are no losses: names, and ends of names."""


def write_report(folder: RunFolder, out: Path | None = None) -> Path:
    """Write the page, by default to `report.html` in the run's folder.

    Raises:
        DataError: the folder holds no run, or the disk is full.
    """
    if not (folder.path / "config.yaml").exists():
        raise DataError(f"{folder.path} holds no run: `asr train` writes config.yaml into its folder")
    path = folder.report if out is None else out
    write_whole(path, html(folder))
    return path


def html(folder: RunFolder) -> str:
    """The page of a run, be it over or not."""
    told = read_history(folder)
    body = [
        _summary(folder, told.curves),
        _dev(told.curves),
        _finish(folder),
        _training(told.curves),
        _batches(folder, told.curves),
        _pictures(folder),
        _utterances(folder),
        _circumstances(folder, told),
    ]
    return document(f"Training: {folder.path.absolute().name}", body)


def _summary(folder: RunFolder, found: Curves) -> str:
    """How far the run is, and how good."""
    losses = found.get("train/loss", [])
    if not losses:
        return note("Nothing has been trained yet, or by a version that kept no history.")
    of: dict[str, str] = {"batches": f"{max(curve[-1][0] for curve in found.values())}"}
    for name, unit in (("epochs", ""), ("hours", " of time")):
        if curve := found.get(f"train/{name}"):
            of[name] = f"{curve[-1][1]:.2f}{unit}"
    of["loss"] = f"{losses[-1][1]:.4f}"
    for name, curve in _scores(found).items():
        batch, value = min(curve, key=lambda point: point[1])
        of[f"best {name}"] = (
            f"{_value(name, value)} at batch {batch}; {_value(name, curve[-1][1])} at the last validation"
        )
    of["bundle"] = (
        "written" if folder.bundle.exists() else "not yet; it is made when the run ends, or by `asr average`"
    )
    return facts(of)


def _scores(found: Curves) -> dict[str, Sequence[tuple[int, float]]]:
    """What runs are compared by: word error rates in per cent, or perplexity."""
    names = [name for name in found if name.startswith("dev/WER") or name == "dev/perplexity"]
    return {name.removeprefix("dev/"): found[name] for name in names}


def _value(name: str, value: float) -> str:
    return f"{value:.2f} %" if name.startswith("WER") else f"{value:.2f}"


def _dev(found: Curves) -> str:
    scores = _scores(found)
    if not scores:
        return ""
    kind = "word errors, %" if any(name.startswith("WER") for name in scores) else "perplexity"
    batches = sorted({batch for curve in scores.values() for batch, _ in curve})
    values = {name: dict(curve) for name, curve in scores.items()}
    rows = [
        [str(batch), *(_value(name, of[batch]) if batch in of else "" for name, of in values.items())]
        for batch in batches
    ]
    losses = {
        name[4:]: curve for name, curve in found.items() if name.startswith("dev/") and name[4:] not in scores
    }
    plots = _grid(
        curves({name.removeprefix("WER "): curve for name, curve in scores.items()}, x="batch", y=kind),
        curves(losses, x="batch", y="loss of the dev set") if losses else "",
    )
    return heading("Dev set") + plots + details("Each validation", table(["batch", *scores], rows))


def _finish(folder: RunFolder) -> str:
    """Which weights the bundle got, and what fine-tuning did to each domain."""
    if not folder.after.exists():
        return ""
    after = json.loads(folder.after.read_text(encoding="utf-8"))
    parts = []
    if after["tried"]:
        rows = [
            [name, told, "chosen" if name == after["chosen"] else ""] for name, told in after["tried"].items()
        ]
        parts += [heading("Weights of the bundle"), table(["weights", "on dev", ""], rows)]
    if after["domains"]:
        rows = [[path, *told] for path, told in after["domains"].items()]
        parts += [heading("Before and after"), table(["dev set", "before", "after"], rows)]
    return "".join(parts)


def _training(found: Curves) -> str:
    train = {name.removeprefix("train/"): curve for name, curve in found.items() if name.startswith("train/")}
    losses = {
        name: curve for name, curve in train.items() if name not in RUNNING and not name.endswith(MEASURED)
    }
    if not losses:
        return ""
    speed = {_spelt(name): curve for name, curve in train.items() if name.endswith(" per second")}
    rates = [
        (batch, 1000 * rate) for batch, rate in train.get("learning rate", ())
    ]  # short numbers at the axis
    return heading("Training") + _grid(
        curves(losses, x="batch", y="loss"),
        curves({"learning rate, thousandths": rates}, x="batch", y="learning rate * 1000") if rates else "",
        *(
            curves({name: train[name]}, x="batch", y=name)
            for name in ("gradient norm", "clipped to")
            if name in train
        ),
        *(curves({name: curve}, x="batch", y=name) for name, curve in speed.items()),
        curves({"time that waits for data": train["share of time that waits for data"]}, x="batch", y="share")
        if "share of time that waits for data" in train
        else "",
    )


def _spelt(name: str) -> str:
    """A name with its unit in words."""
    return f"seconds of speech{name[1:]}" if name.startswith("s ") else name


def _batches(folder: RunFolder, found: Curves) -> str:
    of = {}
    for name, curve in found.items():
        short, values = name.removeprefix("train/"), [value for _, value in curve]
        if short.endswith(MEASURED[1:]):
            mean = sum(values) / len(values)
            shown = percent if short.startswith("share") else "{:.1f}".format
            of[_spelt(short)] = f"{shown(mean)} in the mean, {shown(min(values))} to {shown(max(values))}"
    if left_out := found.get("train/utterances left out"):
        count = left_out[-1][1]
        of["utterances left out"] = (
            f"{count:.0f}, all epochs counted; train.log names them" if count else "none"
        )
    for what, pattern in (
        ("unreadable audio", "unreadable*.txt"),
        ("batches that were not finite", "nonfinite-*.json"),
    ):
        if files := sorted(path.name for path in folder.path.glob(pattern)):
            of[what] = ", ".join(files)
    return heading("Batches") + facts(of) if of else ""


def _pictures(folder: RunFolder) -> str:
    shown = [
        picture(path.read_bytes(), path.stem.replace("-", " "))
        for path in sorted(folder.pictures.glob("*.png"))
    ]
    about = "Of the last validation. White lines are where tokens came, in the shortest utterance of the first batch."
    return heading("Pictures") + note(about) + "".join(shown) if shown else ""


def _utterances(folder: RunFolder) -> str:
    """The worst and the best of each way of decoding, that of the fewest errors first and open."""
    if not folder.heard.exists():
        return ""
    tree = json.loads(folder.heard.read_text(encoding="utf-8"))
    ways = []
    for way, heard in tree["heard"].items():
        pairs = {
            id: align_words(text.split(), heard[id].split())
            for id, text in tree["references"].items()
            if id in heard
        }
        ways.append((sum((Errors.of(one) for one in pairs.values()), Errors()).rate, way, pairs))
    ways.sort(key=lambda one: one[:2])
    parts = [
        details(f"{way}: {percent(rate)} word errors", _extremes(pairs), opened=number == 0)
        for number, (rate, way, pairs) in enumerate(ways)
    ]
    return heading("Dev utterances") + note(f"At batch {tree['batch']}. {LEGEND}") + "".join(parts)


def _extremes(found: Mapping[str, list[Pair]]) -> str:
    errors = {id: Errors.of(pairs) for id, pairs in found.items()}
    worst = sorted((id for id in found if errors[id].total), key=lambda one: (-errors[one].total, one))[
        :WORST
    ]
    rest = [id for id in found if id not in worst]
    best = sorted(rest, key=lambda one: (errors[one].rate, -errors[one].length, one))[:BEST]
    return "".join(
        heading(name, level=3) + "".join(aligned(id, found[id]) for id in ids)
        for name, ids in (("Worst", worst), ("Best", best))
        if ids
    )


def _circumstances(folder: RunFolder, told: Told) -> str:
    """Where, with what, and how the run was made."""
    parts = [heading("Sessions and environment")]
    if told.sessions:
        rows = [[one.began, str(one.batch), "; ".join(one.git), one.command] for one in told.sessions]
        parts.append(table(["began", "at batch", "code", "command"], rows))
        parts.append(
            details("Versions and devices of the last session", facts(told.sessions[-1].environment))
        )
    config: Any = (folder.path / "config.yaml").read_text(encoding="utf-8")
    return "".join([*parts, heading("Configuration"), source(config)])


def _grid(*plots: str) -> str:
    return f"<div class=two>{''.join(f'<div>{plot}</div>' for plot in plots if plot)}</div>"
