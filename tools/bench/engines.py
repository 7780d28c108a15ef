"""What an engine and its precision cost in accuracy and time: a test set through live sessions, 32 at a time.

    python tools/bench/engines.py data/an4/test.jsonl.gz                  # the embedded model, all engines
    python tools/bench/engines.py data/an4/test.jsonl.gz --model runs/an4/bundle --latency 770 --limit 200

Each engine hears the same sessions through the scheduler; time is that of the process' threads, so that other work on
the machine counts less. The first line is the baseline of the ratios.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from asr.dataset.manifest import Manifest
from asr.errors import ConfigError
from asr.evaluate import count_errors
from asr.paths import embedded_model
from asr.text import normalizer
from streaming.engine import Engine, warm_up
from streaming.engines import load_engines
from streaming.events import Final, Options
from streaming.scheduler import Scheduler

ENGINES = (
    ("torch", "float32"),
    ("torch", "int8"),
    ("torch", "bfloat16"),
    ("onnx", "float32"),
    ("onnx", "int8"),
)
TOGETHER = 32


def texts(
    engine: Engine, recordings: dict[str, np.ndarray], latency: int, head: str | None
) -> dict[str, str]:
    """What sessions say of each recording."""
    scheduler, rest = Scheduler(engine, max_batch=TOGETHER, backlog=120.0), dict(recordings)
    said: dict[str, list[str]] = {name: [] for name in recordings}
    while rest or len(scheduler):
        while rest and len(scheduler) < TOGETHER:
            name, samples = rest.popitem()
            scheduler.open(name, Options(latency_ms=latency, head=head, encoding="f32le", partials=False))
            scheduler.push(name, samples.astype("<f4").tobytes(), 0.0)
            scheduler.end(name, 0.0)
        for result in scheduler.tick(0.0).results:
            said[str(result.key)] += [event.text for event in result.events if isinstance(event, Final)]
    return {name: " ".join(parts) for name, parts in said.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--latency", type=int, help="one of the model's; default: its first")
    parser.add_argument("--head")
    parser.add_argument("--limit", type=int, help="only so many utterances")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cuts = list(Manifest([options.manifest]))[: options.limit]
    recordings = {cut.id: cut.load_audio()[0] for cut in cuts}
    wanted = {cut.id: cut.supervisions[0].text for cut in cuts}
    seconds = sum(map(len, recordings.values())) / 16_000
    baseline = None
    for kind, precision in ENGINES:
        try:
            (engine,) = load_engines(
                [str(options.model or embedded_model())],
                engine=kind,
                precision=precision,
                threads=options.threads,
            ).values()
        except ConfigError as error:
            print(f"{kind:5} {precision:8}  {error}")
            continue
        list(warm_up(engine, batches=(TOGETHER,)))
        begin = time.process_time()
        said = texts(engine, recordings, options.latency or engine.latencies[0], options.head)
        spent = time.process_time() - begin
        baseline = spent if baseline is None else baseline
        normal = normalizer(engine.model.scoring)  # type: ignore[attr-defined]
        errors = count_errors(map(normal, wanted.values()), (normal(said[name]) for name in wanted))
        print(
            f"{kind:5} {precision:8}  WER {100 * errors.rate:5.2f} % of {errors.length} words, {spent:6.2f} s of "
            f"processor time for {seconds:.0f} s of speech, {spent / baseline:.2f} of the first",
            flush=True,
        )


if __name__ == "__main__":
    main()
