"""Word errors of every head and search, as a table of Markdown; decoded offline, in full context.

    python tools/bench/word_errors.py data/english/an4/test.jsonl.gz data/english/robotutor/test.jsonl.gz \
        --lm 3gram.arpa --lm runs/english-lm/bundle --lm-scale 0.3 --lm-scale 0.5 --beam 8

The encoder runs once for all. RTF is the search's alone, of processor time; its ratio is to greedy search of that head.
A column is named by its manifest's folder.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

import asr
from asr.audio import SAMPLE_RATE
from asr.dataset import Batch, DataConfig
from asr.evaluate import count_errors, spread_loader
from asr.evaluate.decode import decode_frames
from asr.model import Model
from asr.paths import embedded_model
from asr.search.config import SearchConfig

Encoded = list[tuple[Batch, Tensor, Tensor]]


def searches(
    lms: Sequence[str], scales: Sequence[float], beams: Sequence[int], lodr: str | None, lodr_scale: float
) -> Iterator[tuple[str, SearchConfig]]:
    yield "greedy", SearchConfig()
    for beam in beams:
        yield f"beam {beam}", SearchConfig(kind="beam", beam=beam)
        for lm in lms:
            for scale in scales:
                name = (
                    f"beam {beam}, {Path(lm).parent.name if Path(lm).is_dir() else Path(lm).name} x {scale:g}"
                )
                yield name, SearchConfig(kind="beam", beam=beam, lm=lm, lm_scale=scale)
                if lodr:
                    yield (
                        f"{name}, LODR x {lodr_scale:g}",
                        SearchConfig(
                            kind="beam", beam=beam, lm=lm, lm_scale=scale, lodr=lodr, lodr_scale=lodr_scale
                        ),
                    )


def encoded(model: Model, manifest: Path, limit: int | None) -> Encoded:
    config = DataConfig(train=(), max_duration=120, max_seconds=60, augment=(), workers=0)
    batches = spread_loader((manifest,), config, model.tokenizer, limit=limit or 10**9)
    return [(b, *model.encode(*model.flushed(b.samples, b.sample_lens))) for b in batches]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifests", type=Path, nargs="+")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--lm", action="append", default=[])
    parser.add_argument("--lm-scale", type=float, action="append")
    parser.add_argument("--lodr")
    parser.add_argument("--lodr-scale", type=float, default=0.1)
    parser.add_argument("--beam", type=int, action="append")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--threads", type=int, default=1)
    o = parser.parse_args()
    torch.set_num_threads(o.threads)
    model = asr.load(o.model or embedded_model()).eval()
    names = [manifest.parent.name for manifest in o.manifests]
    print(f"| head | search | {' | '.join(f'WER {name}' for name in names)} | RTF of the search | ratio |")
    print("|---|---|" + "---|" * (len(names) + 2))
    with torch.inference_mode():
        sets = [encoded(model, manifest, o.limit) for manifest in o.manifests]
        seconds = sum(float(batch.sample_lens.sum()) / SAMPLE_RATE for one in sets for batch, *_ in one)
        for head in model.heads:
            greedy = 0.0
            for name, search in searches(o.lm, o.lm_scale or [0.3], o.beam or [4], o.lodr, o.lodr_scale):
                begin, rates = time.process_time(), []
                for one in sets:
                    wanted, found = [], []
                    for batch, y, y_lens in one:
                        for text, said in zip(
                            batch.texts, decode_frames(model, y, y_lens, head, search), strict=True
                        ):
                            wanted.append(text.lower())
                            found.append(model.tokenizer.decode([e.token for e in said]).lower())
                    rates.append(f"{100 * count_errors(wanted, found).rate:.2f} %")
                cost = (time.process_time() - begin) / seconds
                greedy = greedy or cost
                print(
                    f"| {head} | {name} | {' | '.join(rates)} | {cost:.4f} | {cost / greedy:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
