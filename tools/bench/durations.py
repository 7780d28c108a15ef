"""A transducer with durations beside one without: word errors and processor time of each search, from the same frames.

    python tools/bench/durations.py data/mini/train.jsonl.gz data/mini/test.jsonl.gz --model data/models/mini

The encoder is a trained model's and stays as it is; both heads are trained on its frames of the first manifest, over
the full lattice, from the same beginning.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import asr
from asr.dataset import DataConfig
from asr.evaluate import count_errors, spread_loader
from asr.heads import TDTConfig, Transducer, TransducerConfig
from asr.search.config import SearchConfig
from asr.search.plan import Plan

SEARCHES = {"greedy": SearchConfig(), "greedy, phrases": SearchConfig(phrases=("spades", "diamonds"))} | {
    f"beam {k}": SearchConfig(kind="beam", beam=k) for k in (1, 2, 4, 8)
}


def frames(model: Any, manifest: Path) -> tuple[Any, ...]:
    config = DataConfig(train=(), max_duration=1e9, max_seconds=1e9, augment=(), workers=0)
    (batch,) = spread_loader((manifest,), config, model.tokenizer)
    with torch.inference_mode():
        y, y_lens = model.encode(*model.flushed(batch.samples, batch.sample_lens))
    return y.clone(), y_lens.clone(), batch


def train(head: Transducer, y: Any, y_lens: Any, batch: Any, steps: int, size: int) -> None:
    optimizer = torch.optim.AdamW(head.parameters(), 0.003)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.003, total_steps=steps)
    make = torch.Generator().manual_seed(0)
    for _ in range(steps):
        rows = torch.randperm(len(y), generator=make)[:size]
        lens, token_lens = y_lens[rows], batch.token_lens[rows]
        part = y[rows, : int(lens.max())], lens, batch.tokens[rows, : int(token_lens.max())], token_lens
        (loss,) = head.loss(*part).values()
        optimizer.zero_grad()
        (loss.sum() / lens.sum()).backward()
        optimizer.step()
        schedule.step()
    head.eval()


def said(head: Transducer, y: Any, y_lens: Any, search: SearchConfig, tokenizer: Any) -> list[str]:
    plan = None if search.plain else Plan([search] * len(y), tokenizer)
    found, state = head.step(y, y_lens, head.init_state(len(y), plan), plan)
    ends = head.finish(state, plan)
    return [
        tokenizer.decode([e.token for e in emissions + end[0].emissions])
        for emissions, end in zip(found, ends, strict=True)
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path, nargs="+")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model = asr.load(options.model).eval()
    known, heard = frames(model, options.train), [frames(model, manifest) for manifest in options.test]
    config, heads = replace(model.config.transducer or TransducerConfig(), loss="full"), {}
    for name, tdt in (("without", None), ("with", TDTConfig())):
        torch.manual_seed(0)
        heads[name] = Transducer(replace(config, tdt=tdt), model.encoder.dim, model.tokenizer.size)
        begin = time.process_time()
        train(heads[name], *known, options.steps, options.batch)
        print(
            f"{name} durations: trained in {time.process_time() - begin:.0f} s of processor time", flush=True
        )
    print(f"{'search':<18}{'WER % without':>15}{'with':>8}{'ms without':>13}{'with':>8}{'ratio':>8}")
    for name, search in SEARCHES.items():
        best, texts = dict.fromkeys(heads, 1e9), {}
        for _ in range(options.repeats):
            for kind, head in heads.items():
                with torch.inference_mode():
                    begin = time.process_time()
                    texts[kind] = [
                        one
                        for y, y_lens, _ in heard
                        for one in said(head, y, y_lens, search, model.tokenizer)
                    ]
                    best[kind] = min(best[kind], time.process_time() - begin)
        references = [one for _, _, batch in heard for one in batch.texts]
        wer = {kind: 100 * count_errors(references, texts[kind]).rate for kind in heads}
        print(
            f"{name:<18}{wer['without']:15.1f}{wer['with']:8.1f}{1000 * best['without']:13.1f}"
            f"{1000 * best['with']:8.1f}{best['with'] / best['without']:8.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
