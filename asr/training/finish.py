"""From a run to a bundle: which average of the parameters is best."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn

from asr.errors import DataError
from asr.training.average import span_average
from asr.training.checkpoints import RunFolder, Snapshot
from asr.training.fine_tune import merge
from asr.training.recipe import Recipe, dev_loader, load_run, load_weights, subject_of
from asr.training.subject import Subject

__all__ = ["average", "by_domain", "spans"]

log = logging.getLogger(__name__)

_SHARES = (0.1, 0.25, 0.5)  # of the run, counted from its end


def average(
    run_dir: str | PathLike[str],
    *,
    last: int | None = None,
    span: tuple[int, int] | None = None,
    out: str | PathLike[str] | None = None,
) -> Path:
    """Write a bundle of averaged parameters from a run's folder, by default to its `bundle/`; returns its path.

    last: average over the last so many batches. span: over the batches after the first number up to the second. Both
    are widened to the nearest snapshots. With neither, the last tenth, quarter and half of the run and the best
    checkpoint are measured on the dev set, and the one with the lowest score is taken.
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
        chosen = f"the average over batches {early.batches if early else 0} to {late.batches}"
        log.info("%s", chosen)
    elif recipe.data.dev:
        dev = dev_loader(recipe, model.tokenizer)
        results: list[tuple[float, str, dict[str, Tensor]]] = []
        for name, parameters in _candidates(model, folder, snapshots):
            _put(model, parameters)
            score = subject.measure(dev).score
            log.info("%s: %s on dev", name, subject.tell(score))
            results.append((score, name, parameters))
        score, name, parameters = min(results, key=lambda result: result[0])
        _put(model, parameters)
        chosen = f"{name}, {subject.tell(score)} on dev"
        log.info("the bundle gets %s", name)
    elif snapshots:
        _put(model, _mean(*_enclosing(snapshots, *spans(snapshots)[0])))
        chosen = "an average of the end of the run"
    else:
        chosen = "the last checkpoint"
    if recipe.data.dev:
        subject.calibrate(dev_loader(recipe, model.tokenizer))
    if folder.before.exists():
        chosen += "".join(f"\n- {line}" for line in _before_and_after(recipe, subject, folder))
    merge(model)
    path = Path(out) if out is not None else folder.bundle
    model.save(path, card=_card(folder, recipe, subject, chosen))
    log.info("wrote %s", path)
    return path


def by_domain(recipe: Recipe, subject: Subject) -> dict[str, float]:
    """The score of each part of the dev set by itself: of old data and of new, say."""
    tokenizer = subject.model.tokenizer
    return {
        str(path): subject.measure(dev_loader(recipe, tokenizer, part=i)).score
        for i, path in enumerate(recipe.data.dev)
    }


def _before_and_after(recipe: Recipe, subject: Subject, folder: RunFolder) -> list[str]:
    before, after = json.loads(folder.before.read_text(encoding="utf-8")), by_domain(recipe, subject)
    lines = [
        f"{path}: {subject.tell(before[path])} before, {subject.tell(rate)} after"
        for path, rate in after.items()
        if path in before
    ]
    for line in lines:
        log.info("%s", line)
    return lines


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


def spans(snapshots: list[Snapshot]) -> list[tuple[int, int]]:
    """(after, up to) of the spans to try, from short to long, each different in snapshots."""
    if not snapshots:
        return []
    end = snapshots[-1].batches
    starts = [0, *(s.batches for s in snapshots[:-1])]
    near = {min(starts, key=lambda start: abs(start - end * (1 - share))) for share in _SHARES}
    return [(start, end) for start in sorted(near, reverse=True)]


def _candidates(
    model: nn.Module, folder: RunFolder, snapshots: list[Snapshot]
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    for after, end in spans(snapshots):
        yield f"the average over batches {after} to {end}", _mean(*_enclosing(snapshots, after, end))
    best = folder.best if folder.best.exists() else folder.last
    load_weights(model, folder, best)
    yield f"checkpoint {best.name}", {name: p.detach().clone() for name, p in model.named_parameters()}


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
