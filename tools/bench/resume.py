"""Seconds from a command to its next training step, after SIGKILL, on a manifest of a million lines.

The lines name the embedded corpus's recordings again and again; the model is small, so that what is measured is the way
to the batch. Beside it stands the same with 1,000 lines: the ratio is what the length costs.

    python tools/bench/resume.py --lines 1000000
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from resident import family

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "data/mini/train.jsonl.gz"
RECIPE = ROOT / "recipes/mini/train.yaml"
SMALL = [
    "model={encoder: {kind: conformer, dim: 16, layers: 1, heads: 2}, transducer: null}",
    "tokenizer={kind: characters}",
    "data.dev=[]",
    "data.workers=1",
    "data.cache=false",
    "train.save_minutes=1e-9",
    "train.log_batches=1",
    "train.threads=1",
    "train.hours=null",
]


def write(path: Path, lines: int) -> None:
    """So many cuts, each with an id of its own."""
    with gzip.open(MANIFEST, "rt", encoding="utf-8") as file:
        cuts = [json.loads(line) for line in file]
    for cut in cuts:
        for source in cut["recording"]["sources"]:
            source["source"] = str(MANIFEST.parent / source["source"])
    texts = [json.dumps(cut).replace(json.dumps(cut["id"]), '"%s"', 1) + "\n" for cut in cuts]
    with gzip.open(path, "wt", encoding="utf-8", compresslevel=1) as file:
        for i in range(lines):
            file.write(texts[i % len(texts)].replace("%s", f"utterance-{i}", 1))


def start(manifest: Path, out: Path, cache: Path, *, batches: int) -> tuple[float, float, float]:
    """Train until so many more batches are logged, then SIGKILL: seconds to the first of them, of processor time until
    then, and the most memory (MB, with the process that reads)."""
    given = [str(RECIPE), f"data.train=[{manifest}]", *SMALL, "--out", str(out)]
    command = [sys.executable, "-m", "asr", "train", *given]
    log = out / "train.log"
    before = len(steps(log))
    begun = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "RILL_CACHE": str(cache), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    seconds = processor = 0.0
    try:
        while (done := len(steps(log)) - before) < batches:
            if process.poll() is not None:
                raise RuntimeError(f"training ended: {log.read_text()[-2000:] if log.exists() else command}")
            if done and not seconds:
                seconds, processor = time.monotonic() - begun, cpu(process.pid)
            time.sleep(0.02)
        memory = sum(peak(pid) for pid in family(process.pid))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return seconds or time.monotonic() - begun, processor, memory


def steps(log: Path) -> list[str]:
    return re.findall(r" batch (\d+)  epoch", log.read_text(encoding="utf-8")) if log.exists() else []


def cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def peak(pid: int) -> float:
    return next(
        int(line.split()[1]) / 1e3
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if "VmHWM" in line
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"{'lines':>9} {'':>8} {'seconds':>8} {'CPU s':>8} {'MB':>6}")
        resumed: dict[int, list[float]] = {}
        for lines in (1000, options.lines):
            manifest, out = folder / f"{lines}.jsonl.gz", folder / str(lines)
            write(manifest, lines)
            for i in range(1 + options.repeats):
                seconds, processor, memory = start(manifest, out, folder / "cache", batches=3)
                told = "resumed" if i else "begun"
                print(f"{lines:9} {told:>8} {seconds:8.1f} {processor:8.1f} {memory:6.0f}", flush=True)
                if i:
                    resumed.setdefault(lines, []).append(processor)
        few, many = (min(found) for found in resumed.values())
        print(
            f"to the next step: {many - few:.1f} s of processor time more than with 1000 lines, {many / few:.2f} times"
        )


if __name__ == "__main__":
    main()
