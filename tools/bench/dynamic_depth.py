"""What depth costs and gives: word errors and time of a model with `depth`, at several thresholds of its gates.

    python tools/bench/dynamic_depth.py exp/model data/mini/test.jsonl.gz
    python tools/bench/dynamic_depth.py exp/model data/mini/test.jsonl.gz --latency 320

Threshold 0 runs all blocks: what the same model does without its gates. The time is the processor's, of the encoder and
the search without reading files; machines are noisy, so each batch takes its fastest of `--repeats`. `asr describe
BUNDLE --audio FILES --picture gates.png` draws the gates.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

import asr
from asr.audio import SAMPLE_RATE
from asr.dataset import DataConfig
from asr.encoders.dynamic_depth import GatedEncoder
from asr.evaluate import Errors, count_errors, decode, spread_loader


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("manifest", type=Path, help="Lhotse cuts")
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.0, 0.1, 0.3, 0.5, 0.7, 0.9])
    parser.add_argument("--latency", type=int, help="in milliseconds; without, full context")
    parser.add_argument("--head")
    parser.add_argument("--limit", type=int, help="only so many utterances")
    parser.add_argument("--batch-seconds", type=float, default=60.0)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=0, help="0: torch's choice")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    model = asr.load(options.bundle).eval()
    encoder = model.encoder
    if not isinstance(encoder, GatedEncoder) or encoder.depth is None:
        parser.error(f"{options.bundle}: its encoder has no `depth`")
    chunk = model.chunk_for(options.latency)
    config = DataConfig(
        train=(),
        max_duration=options.batch_seconds,
        max_seconds=options.batch_seconds,
        augment=(),
        workers=0,
    )
    batches = list(spread_loader((options.manifest,), config, model.tokenizer, limit=options.limit))
    speech = sum(float(batch.sample_lens.sum()) for batch in batches) / SAMPLE_RATE
    blocks = len(encoder.blocks)
    print(f"{options.bundle}: {blocks} blocks, {speech / 60:.1f} min, latency {options.latency or 'offline'}")
    print("threshold  blocks run   share   WER %   S / D / I        seconds  real-time factor")
    for threshold in options.thresholds:
        encoder.depth.threshold = threshold
        errors, seconds, ran, frames = Errors(), 0.0, 0.0, 0.0
        for batch in batches:
            best = float("inf")
            for _ in range(options.repeats):
                start = time.process_time()
                found = decode(model, batch.samples, batch.sample_lens, chunk=chunk, head=options.head)
                best = min(best, time.process_time() - start)
            gates = encoder.depth.last
            assert gates is not None
            seconds += best
            ran += float(gates.depth().sum())
            frames += float(gates.frames.sum())
            texts = [model.tokenizer.decode([e.token for e in emissions]).lower() for emissions in found]
            errors += count_errors([text.lower() for text in batch.texts], texts)
        share = ran / frames
        counts = f"{errors.substitutions} / {errors.deletions} / {errors.insertions}"
        print(
            f"{threshold:9.2f} {blocks * share:11.2f} {share:7.3f} {100 * errors.rate:7.2f}   {counts:15s} "
            f"{seconds:8.2f} {seconds / speech:17.4f}"
        )


if __name__ == "__main__":
    main()
