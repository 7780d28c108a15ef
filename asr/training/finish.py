"""From a run to a bundle: which average of the parameters is best."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn

from asr.dataset import Loader
from asr.dataset.texts import Texts
from asr.errors import DataError
from asr.training.average import span_average
from asr.training.checkpoints import RunFolder, Snapshot, write_whole
from asr.training.fine_tune import merge
from asr.training.recipe import Recipe, dev_loader, load_run, load_weights, subject_of
from asr.training.report import write_report
from asr.training.subject import Subject

__all__ = ["average", "best_span", "by_domain", "first_spans"]

log = logging.getLogger(__name__)

_SHARES = (0.1, 0.25, 0.5)  # of the run, counted from its end

Span = tuple[int, int]
"""The batches after the first number up to the second."""


def average(
    run_dir: str | PathLike[str],
    *,
    last: int | None = None,
    span: Span | None = None,
    tries: int = 12,
    out: str | PathLike[str] | None = None,
) -> Path:
    """Write a bundle of averaged parameters from a run's folder, by default to its `bundle/`; returns its path.

    last: average over the last so many batches. span: over the batches after the first number up to the second. Both
    are widened to the nearest snapshots. With neither, the best checkpoint and up to `tries` spans are measured on the
    dev set, and the one with the lowest score is taken (see `best_span`). The run's report tells them all.
    What a speech model says of times and confidences is calibrated on the dev set, if there is one.

    Raises:
        DataError: no checkpoint in the folder, or no snapshot in the span.
    """
    folder = RunFolder(Path(run_dir))
    if not folder.last.exists():
        raise DataError(f"{folder.path} holds no checkpoint: `asr train` writes {folder.last}")
    recipe, model = load_run(folder)
    subject = subject_of(recipe, model.eval())
    snapshots = folder.snapshots()
    tried: dict[str, str] = {}
    if span is not None or last is not None:
        if not snapshots:
            raise DataError(
                f"{folder.checkpoints} holds no snapshot of the average yet; train on until a validation"
            )
        after, end = (
            span if span is not None else (max(0, snapshots[-1].batches - (last or 0)), snapshots[-1].batches)
        )
        early, late = _enclosing(snapshots, after, end)
        _put(model, _mean(early, late))
        weights = chosen = _name((early.batches if early else 0, late.batches))
        log.info("%s", chosen)
    elif recipe.data.dev:
        weights, tried = _choose(
            model, folder, snapshots, subject, dev_loader(recipe, model.tokenizer), tries
        )
        chosen = f"{weights}, {tried[weights]} on dev"
        log.info("the bundle gets %s", weights)
    elif snapshots:
        _put(model, _mean(*_enclosing(snapshots, *first_spans([s.batches for s in snapshots])[0])))
        weights = chosen = "an average of the end of the run"
    else:
        weights = chosen = "the last checkpoint"
    if recipe.data.dev:
        subject.calibrate(dev_loader(recipe, model.tokenizer))
    domains = _before_and_after(recipe, subject, folder)
    lines = [f"{part}: {before} before, {after} after" for part, (before, after) in domains.items()]
    for line in lines:
        log.info("%s", line)
    merge(model)
    path = Path(out) if out is not None else folder.bundle
    model.save(path, card=_card(folder, recipe, subject, "\n- ".join([chosen, *lines])))
    log.info("wrote %s", path)
    if path == folder.bundle:
        told = {"tried": tried, "chosen": weights, "domains": domains}
        write_whole(folder.after, json.dumps(told, indent=1) + "\n")
        write_report(folder)
    return path


def by_domain(recipe: Recipe, subject: Subject) -> dict[str, float]:
    """The score of each part of the dev set by itself: of old data and of new, say."""
    tokenizer = subject.model.tokenizer
    return {
        str(path): subject.measure(dev_loader(recipe, tokenizer, part=i)).score
        for i, path in enumerate(recipe.data.dev)
    }


def _before_and_after(recipe: Recipe, subject: Subject, folder: RunFolder) -> dict[str, tuple[str, str]]:
    """What a run that began with a model has made of each part of the dev set, in words."""
    if not folder.before.exists():
        return {}
    before, after = json.loads(folder.before.read_text(encoding="utf-8")), by_domain(recipe, subject)
    return {
        path: (subject.tell(before[path]), subject.tell(rate))
        for path, rate in after.items()
        if path in before
    }


def _card(folder: RunFolder, recipe: Recipe, subject: Subject, chosen: str) -> str:
    """What the run itself knows about the model; results on test sets and licences are its owner's to add."""
    progress = folder.load(folder.last)["progress"]
    assert isinstance(progress, dict)
    seconds = progress["seconds"]
    speech = f"{seconds / 3600:.1f} hours of speech in " if seconds else ""
    facts = subject.facts() | {
        "trained on": ", ".join(str(path) for path in recipe.data.train),
        "training": f"{speech}{progress['epochs']:.1f} epochs and {progress['batches']} batches; "
        f"{progress['hours']:.2f} hours of time",
        "weights": chosen,
    }
    lines = [f"- {name}: {fact}" for name, fact in facts.items()]
    return "\n".join([f"# {folder.path.absolute().name}", "", *lines, ""])


def _choose(
    model: nn.Module,
    folder: RunFolder,
    snapshots: list[Snapshot],
    subject: Subject,
    dev: Loader | Texts,
    tries: int,
) -> tuple[str, dict[str, str]]:
    """Give the model the best weights on the dev set: what they are, and what each that was tried came to."""
    best = folder.best if folder.best.exists() else folder.last
    load_weights(model, folder, best)
    scores = {f"checkpoint {best.name}": subject.measure(dev).score}

    def score(span: Span) -> float:
        _put(model, _mean(*_enclosing(snapshots, *span)))
        scores[_name(span)] = value = subject.measure(dev).score
        log.info("%s: %s on dev", _name(span), subject.tell(value))
        return value

    span = best_span([snapshot.batches for snapshot in snapshots], score, tries=tries) if snapshots else None
    chosen = min(scores, key=lambda name: scores[name])
    if span is not None and chosen == _name(span):
        _put(model, _mean(*_enclosing(snapshots, *span)))
    else:
        load_weights(model, folder, best)
    return chosen, {name: subject.tell(value) for name, value in scores.items()}


def _name(span: Span) -> str:
    return f"the average over batches {span[0]} to {span[1]}"


def best_span(batches: Sequence[int], score: Callable[[Span], float], *, tries: int) -> Span:
    """The span with the lowest score, of those between snapshots at so many batches, by at most `tries` measurements.

    First the last tenth, quarter and half of the run; then the beginning and the end of the best one are moved by a
    quarter of all snapshots, an eighth and so on, for as long as that is better (a pattern search).
    """
    stops, scores = [0, *batches], dict[Span, float]()

    def measured(span: Span) -> float:
        if span not in scores:
            scores[span] = score(span)
        return scores[span]

    for span in first_spans(batches)[:tries]:
        measured(span)
    step = max(1, len(batches) // 4)
    while step:
        before = best = min(scores, key=lambda span: scores[span])
        i, j = stops.index(best[0]), stops.index(best[1])
        for a, b in ((i - step, j), (i + step, j), (i, j - step), (i, j + step)):
            if 0 <= a < b < len(stops) and (len(scores) < tries or (stops[a], stops[b]) in scores):
                best = min(best, (stops[a], stops[b]), key=measured)
        if best == before:
            step //= 2
    return best


def first_spans(batches: Sequence[int]) -> list[Span]:
    """Those that are tried first, from short to long, each different in snapshots, which are at so many batches."""
    if not batches:
        return []
    end, starts = batches[-1], [0, *batches[:-1]]
    near = {min(starts, key=lambda start: abs(start - end * (1 - share))) for share in _SHARES}
    return [(start, end) for start in sorted(near, reverse=True)]


def _enclosing(snapshots: list[Snapshot], after: int, end: int) -> tuple[Snapshot | None, Snapshot]:
    """The smallest span of snapshots that holds the batches (after, end]; None stands for the run's beginning."""
    late = [s for s in snapshots if s.batches >= end]
    if not late or after >= end:
        raise DataError(
            f"no average over batches {after} to {end}: snapshots are at {', '.join(str(s.batches) for s in snapshots)}"
        )
    early = [s for s in snapshots if s.batches <= after and s.batches < late[0].batches]
    return (early[-1] if early else None), late[0]


def _mean(early: Snapshot | None, late: Snapshot) -> dict[str, Tensor]:
    if early is None:
        return late.load()
    return span_average(early.load(), early.batches, late.load(), late.batches)


@torch.no_grad()
def _put(model: nn.Module, parameters: Mapping[str, Tensor]) -> None:
    for name, p in model.named_parameters():
        p.copy_(parameters[name])
