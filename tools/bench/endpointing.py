"""How well pauses are found: by tokens (`silence`) and by voice (`voice`), on utterances with pauses between them.

    python tools/bench/endpointing.py data/an4/test.jsonl.gz --limit 60

Utterances follow one another with a second of faint noise between. Of each rule: the pauses at which a segment ended,
the cuts inside utterances, and how long after the last word of an utterance its final came, in seconds of audio. The
last word's end is the one that the recogniser tells, the same for all rules.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import asr
from asr.audio import SAMPLE_RATE
from asr.dataset.manifest import Manifest
from asr.paths import embedded_model
from streaming.endpoint import Rules
from streaming.engine import TorchEngine
from streaming.events import Final, Options
from streaming.session import Session, _step

PAUSE = 1.0
RULES = {
    **{f"silence {x:g}": Rules(silence=x) for x in (0.3, 0.5, 0.8, 1.2)},
    **{f"voice {x:g}": Rules(voice=x) for x in (0.2, 0.3, 0.5)},
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--limit", type=int, default=60)
    options = parser.parse_args()
    engine = TorchEngine(asr.load(options.model or embedded_model()), threads=1)
    noise = np.random.default_rng(0)
    pieces, pauses, at = [], [], 0.0
    for cut in list(Manifest([options.manifest]))[: options.limit]:
        samples = cut.load_audio()[0]
        at += len(samples) / SAMPLE_RATE
        pauses.append((at, at + PAUSE))
        at += PAUSE
        quiet = 0.0005 * noise.standard_normal(int(PAUSE * SAMPLE_RATE))
        pieces += [samples, quiet.astype(np.float32)]
    data = (np.concatenate(pieces).clip(-1, 1) * 32767).astype("<i2")
    for name, rules in RULES.items():
        session = Session(engine, Options(latency_ms=engine.latencies[0], endpointing=rules, partials=False))
        cuts = []
        for i in range(0, len(data), 1600):
            session.push(data[i : i + 1600].tobytes())
            finals = [x for x in _step(engine, session) if isinstance(x, Final) and x.speech_final]
            cuts += [(x.end, (i + 1600) / SAMPLE_RATE) for x in finals]
        found = {k for _, told in cuts for k, (a, b) in enumerate(pauses) if a <= told < b + 0.5}
        inside = sum(not any(a <= told < b + 0.5 for a, b in pauses) for _, told in cuts)
        delays = [told - end for end, told in cuts]
        print(
            f"{name:12}: {len(found)} of {len(pauses)} pauses, {inside} cuts inside, final after the last word "
            f"{np.median(delays):.2f} s (median), {np.percentile(delays, 95):.2f} s (95 %)",
            flush=True,
        )


if __name__ == "__main__":
    main()
