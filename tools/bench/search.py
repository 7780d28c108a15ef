"""Speed of every search: utterances a second and real-time factor, batched and one at a time.

    python tools/bench/search.py data/mini/dev.jsonl.gz
    python tools/bench/search.py data/an4/test.jsonl.gz --model runs/an4/bundle --lm an4.arpa --lm runs/an4-lm/bundle

The encoder runs once, before; its own time is the first line. Frames as offline, in full context.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import asr
from asr.audio import SAMPLE_RATE
from asr.dataset import DataConfig
from asr.evaluate import count_errors, spread_loader
from asr.paths import embedded_model
from asr.search.config import SearchConfig


def searches(lms: list[str]) -> dict[str, SearchConfig]:
    phrases = tuple(f"word {i}" for i in range(100))
    found = {
        "greedy": SearchConfig(),
        "greedy, blanks skipped": SearchConfig(blank_skip=0.99),
        "greedy, 100 phrases": SearchConfig(phrases=phrases),
        "beam 4": SearchConfig(kind="beam"),
        "beam 4, blanks skipped": SearchConfig(kind="beam", blank_skip=0.99),
        "beam 8": SearchConfig(kind="beam", beam=8),
        "beam 4, 100 phrases": SearchConfig(kind="beam", phrases=phrases),
        "rescoring 4": SearchConfig(kind="rescoring"),
        "rescoring 8": SearchConfig(kind="rescoring", beam=8),
    }
    for lm in lms:  # a file of n-grams, or the bundle of a neural model
        kind = "neural LM" if Path(lm).is_dir() else "n-gram LM"
        found[f"beam 4, {kind}"] = SearchConfig(kind="beam", lm=lm)
    return found


def timed(do: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    result = do()  # what is made once is not counted
    start = time.perf_counter()
    for _ in range(repeats):
        result = do()
    return (time.perf_counter() - start) / repeats, result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--lm", action="append", default=[])
    parser.add_argument("--limit", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = asr.load(options.model or embedded_model()).eval()
    config = DataConfig(train=(), max_duration=1e9, max_seconds=1e9, augment=(), workers=0)
    (batch,) = spread_loader((options.manifest,), config, model.tokenizer, limit=options.limit)
    seconds, count = float(batch.sample_lens.sum()) / SAMPLE_RATE, len(batch.ids)

    def decode(head: str, search: SearchConfig, y: Tensor, y_lens: Tensor) -> list[str]:
        decoder, plan = model.head(head), model.plan(search, len(y), head)
        emissions, state = decoder.step(y, y_lens, decoder.init_state(len(y), plan), plan)
        ends = decoder.finish(state, plan)
        return [
            model.tokenizer.decode([e.token for e in found + end[0].emissions])
            for found, end in zip(emissions, ends, strict=True)
        ]

    print(f"{count} utterances, {seconds:.0f} s, {options.threads} thread(s)")
    print(
        f"{'head':<12}{'search':<26}{'batched: utt/s':>15}{'RTF':>9}{'alone: utt/s':>14}{'RTF':>9}{'WER %':>8}"
    )

    def row(head: str, name: str, together: float, alone: float, texts: list[str] | None) -> None:
        wer = "" if texts is None else f"{100 * count_errors(batch.texts, texts).rate:8.2f}"
        print(
            f"{head:<12}{name:<26}{count / together:15.1f}{together / seconds:9.5f}"
            f"{count / alone:14.1f}{alone / seconds:9.5f}{wer}",
            flush=True,
        )

    with torch.inference_mode():
        samples, lens = model.flushed(batch.samples, batch.sample_lens)
        together, (y, y_lens) = timed(lambda: model.encode(samples, lens), 1)
        alone, _ = timed(
            lambda: [
                model.encode(samples[i : i + 1, : int(lens[i]) // 160 * 160], lens[i : i + 1])
                for i in range(count)
            ],
            1,
        )
        row("", "encoder", together, alone, None)
        for head in model.heads:
            for name, search in searches(options.lm).items():
                decoder = model.head(head)
                if search.kind not in decoder.searches or (search.blank_skip and not decoder.spared):
                    continue
                together, texts = timed(lambda s=search, h=head: decode(h, s, y, y_lens), options.repeats)
                alone, _ = timed(
                    lambda s=search, h=head: [
                        decode(h, s, y[i : i + 1, : int(y_lens[i])], y_lens[i : i + 1]) for i in range(count)
                    ],
                    1,
                )
                row(head, name, together, alone, texts)


if __name__ == "__main__":
    main()
