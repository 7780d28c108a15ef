"""Train a recipe with several seeds, one after another: errors of each run in words and characters, mean and spread.

    python tools/bench/seeds.py recipes/mini/train.yaml --test data/mini/dev.jsonl.gz
    python tools/bench/seeds.py recipes/an4/train.yaml --seeds 1 2 3 train.threads=1

A run that is there already is measured only, and one that was stopped goes on. The spread is the sample's standard
deviation, in points. `--most 5` ends with an error where a run makes more errors offline: did each seed converge?
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import torch

import asr
from asr.evaluate import evaluate
from asr.training.checkpoints import RunFolder
from asr.training.recipe import load_recipe
from asr.training.train import default_folder, train


class Rates(NamedTuple):
    """Word and character errors in per cent."""

    words: float
    characters: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument(
        "--test", type=Path, action="append", help="manifest; those of the recipe's data.test"
    )
    parser.add_argument("--out", type=Path, help="folder of the runs; runs/NAME-seeds")
    parser.add_argument("--most", type=float, help="word errors in per cent that no run may exceed offline")
    options = parser.parse_intermixed_args()
    recipe = load_recipe(options.recipe, overrides=options.overrides)
    tests = options.test or [Path(test) for test in recipe.data.test]
    out = options.out or default_folder(options.recipe).with_name(
        f"{default_folder(options.recipe).name}-seeds"
    )
    rates: dict[str, list[Rates]] = {}
    for seed in options.seeds:
        folder = RunFolder(out / str(seed))
        if not folder.bundle.exists():
            overrides = [*options.overrides, f"train.seed={seed}", f"data.seed={seed}"]
            if not train(options.recipe, overrides, out=folder.path).samefile(folder.bundle):
                sys.exit(f"seed {seed} was stopped; the same command goes on")
        progress = folder.load(folder.last)["progress"]
        found = measured(folder.bundle, tests)
        if not rates:
            print(f"| seed | batches | hours | {' | '.join(found)} |\n|---|---|---|{'---|' * len(found)}")
        print(
            f"| {seed} | {progress['batches']} | {progress['hours']:.2f} | {row(list(found.values()))} |",
            flush=True,
        )
        for name, rate in found.items():
            rates.setdefault(name, []).append(rate)
    print(f"| mean | | | {row([over(statistics.mean, one) for one in rates.values()])} |")
    if len(options.seeds) > 1:
        print(f"| spread | | | {row([over(statistics.stdev, one) for one in rates.values()])} |")
    worst = max(words for name, one in rates.items() if name.endswith("offline") for words, _ in one)
    if options.most is not None and worst > options.most:
        sys.exit(f"a run makes {worst:.2f} % word errors offline, more than {options.most:g} %")


def measured(bundle: Path, tests: list[Path]) -> dict[str, Rates]:
    """Of the head that decodes, by test set and latency."""
    model = asr.load(bundle)
    head = model.head_name()
    found: dict[str, Rates] = {}
    for test in tests:
        report = evaluate(model, test, latencies=(None, *model.latencies), heads=[head])
        for one in report.rows:
            latency = "offline" if one.latency_ms is None else f"{one.latency_ms} ms"
            rates = Rates(100 * one.words.rate, 100 * one.characters.rate)
            found[f"{test.name.removesuffix('.jsonl.gz')} {latency}"] = rates
    return found


def over(statistic: Callable[[Iterable[float]], float], rates: list[Rates]) -> Rates:
    return Rates(*(statistic(kind) for kind in zip(*rates, strict=True)))


def row(rates: list[Rates]) -> str:
    return " | ".join(f"{words:.2f} / {characters:.2f} %" for words, characters in rates)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
