"""How many live streams a server carries: N real sockets at the pace of speech, N raised until they come late.

    python tools/bench/serve.py                                    # the embedded model, its first latency, 2 threads
    python tools/bench/serve.py --size s --precision int8          # a Zipformer-S of random weights: speed only
    python tools/bench/serve.py --size m --max-batch 1             # one by one, for comparison

Streams are late when the 95th percentile of final latency, from the last audio sent to the last text, passes 500 ms.
The first N is half of what the engine alone would carry; from there it grows until streams are late, and is then
searched between, for `--minutes` at most. The server is a process of its own; its memory is that of all sessions over
that of none. The clients run here and take CPU, too: on a machine of few cores the figures are a lower bound; where
they are behind their own pace, it is said.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from websockets.asyncio.client import connect

import asr
from asr import audio
from asr.encoders import Chunk, ZipformerConfig
from asr.model import Model, ModelConfig
from asr.paths import embedded_model
from asr.search.config import SearchConfig
from asr.tokenizer import Tokenizer
from streaming.engine import Batch, Engine, TorchEngine
from streaming.engines import load_engines
from streaming.protocols import Limits
from streaming.server import Server, Settings, run

SPEECH = Path(__file__).parents[2] / "data" / "mini" / "audio"
PACKET = 0.1  # seconds
LATE = 0.5  # seconds
# What is measured is where text comes late, which the server would not let happen.
LIMITS = Limits(sessions=10_000, lag_seconds=None, session_seconds=1e6)


@dataclass
class Heard:
    """One client's seconds."""

    first: list[float] = field(default_factory=list)
    words: list[float] = field(default_factory=list)
    final: list[float] = field(default_factory=list)
    behind: list[float] = field(default_factory=list)
    """The client itself, its audio."""


def random_model(size: str) -> Model:
    """Random weights whose transducer says about five tokens a second."""
    torch.manual_seed(0)
    tokenizer = Tokenizer.train(["".join(chr(0x4E00 + i) for i in range(499))], kind="characters")
    model = Model(ModelConfig(encoder=ZipformerConfig(size=size)), tokenizer).eval()  # type: ignore[arg-type]
    head = model.heads["transducer"]
    with torch.no_grad():
        y, _ = model.encode(0.1 * torch.randn(4, 32_000), torch.full((4,), 32_000))
        head.encoder_projection.weight *= 10 / y.std((0, 1)).mean()
        head.encoder_projection.bias -= head.encoder_projection(y.mean((0, 1)))
        head.output.weight *= 10
        head.output.bias[0] += 20
    return model


def speech(seconds: float) -> np.ndarray:
    """Recordings of the embedded corpus, one after the other."""
    pieces, samples = [], 0
    for path in sorted(SPEECH.rglob("*.*")):
        pieces.append(audio.read(path))
        samples += len(pieces[-1])
        if samples >= seconds * audio.SAMPLE_RATE:
            break
    return np.concatenate(pieces)[: int(seconds * audio.SAMPLE_RATE)]


def step_seconds(
    engine: TorchEngine, chunk: Chunk, batch: int, samples: np.ndarray, repeats: int
) -> tuple[float, float]:
    """The fastest of some steps of the engine alone: by the clock, and of all threads together."""
    greedy, at = SearchConfig(), engine.samples_first(chunk)
    states, times = [engine.init_state(chunk, None, greedy) for _ in range(batch)], []
    for i in range(repeats + 3):
        size = engine.samples_first(chunk) if i == 0 else engine.samples_next(chunk)
        rows = [np.take(samples, np.arange(at, at + size) + 997 * b, mode="wrap") for b in range(batch)]
        step = Batch(
            chunk=chunk, head=None, samples=np.stack(rows), lens=np.full(batch, size, np.int64), states=states,
            searches=[greedy] * batch,
        )  # fmt: skip
        begin, cpu = time.perf_counter(), time.process_time()
        _, states = engine.step(step)
        times.append((time.perf_counter() - begin, time.process_time() - cpu))
        at += size
    clock, cpu = (min(column) for column in zip(*times[3:], strict=True))
    return clock, cpu


async def client(url: str, samples: np.ndarray, latency_ms: int, delay: float) -> Heard:
    """One stream of the native protocol."""
    heard, shown, rate = Heard(), set(), audio.SAMPLE_RATE
    data, done = (samples * 32767).astype("<i2"), float("inf")
    await asyncio.sleep(delay)
    async with connect(url, compression=None, ping_timeout=None, open_timeout=60) as channel:
        await channel.send(json.dumps({"type": "start", "sample_rate": rate, "latency_ms": latency_ms}))
        began, size = time.monotonic(), int(PACKET * rate)

        async def send() -> None:
            nonlocal done
            for i in range(0, len(data), size):
                await asyncio.sleep(began + (i + size) / rate - time.monotonic())
                heard.behind.append(time.monotonic() - began - (i + size) / rate)
                await channel.send(data[i : i + size].tobytes())
            done = time.monotonic()
            await channel.send('{"type": "end"}')

        sender, last = asyncio.create_task(send()), 0.0
        async for raw in channel:
            message, now = json.loads(raw), time.monotonic()
            if message["type"] in ("partial", "final"):
                last = now
                for i, word in enumerate(message["words"]):
                    if (message["segment"], i) not in shown:
                        shown.add((message["segment"], i))
                        late = now - began - min(word["end"], len(data) / rate)
                        (heard.words if heard.words or heard.first else heard.first).append(late)
            elif message["type"] == "error":
                raise SystemExit(f"the server says: {message['message']}")
        await sender
    heard.final.append(max(0.0, last - done) if last else 0.0)
    return heard


async def streams(url: str, count: int, samples: np.ndarray, latency_ms: int) -> list[Heard]:
    """`count` clients that begin within a second, each with another part of the recordings."""
    parts = [np.roll(samples, -16_000 * 7 * i) for i in range(count)]
    return await asyncio.gather(*(client(url, part, latency_ms, i / count) for i, part in enumerate(parts)))


def percentiles(name: str, values: Sequence[float]) -> str:
    if not values:
        return f"{name} none"
    p50, p95, p99 = (1000 * np.percentile(values, p) for p in (50, 95, 99))
    return f"{name} {p50:.0f} / {p95:.0f} / {p99:.0f}"


def memory_and_time(process: int) -> tuple[float, float]:
    """Megabytes resident, and CPU seconds."""
    resident = int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return resident, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def server(
    bundle: Path, threads: int, max_batch: int, *, precision: str = "float32", engine: str = "torch"
) -> Iterator[tuple[str, int]]:
    """Its URL and process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        __file__,
        "--model",
        bundle,
        "--threads",
        threads,
        "--max-batch",
        max_batch,
        "--port",
        port,
        "--precision",
        precision,
        "--engine",
        engine,
    ]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            raise SystemExit("the server did not start; its message is above")
        yield url, process.pid
    finally:
        process.terminate()
        process.wait(30)


def serve(options: argparse.Namespace) -> None:
    def started(server: Server) -> None:
        print(server.url, flush=True)

    settings = Settings(port=options.port, limits=LIMITS, max_batch=options.max_batch)
    run(engines(options.model, options), settings, started=started)


def engines(bundle: Path, options: argparse.Namespace) -> dict[str, Engine]:
    return load_engines(
        [str(bundle)], engine=options.engine, precision=options.precision, threads=options.threads
    )


def measure(options: argparse.Namespace, bundle: Path) -> None:
    (engine,) = engines(bundle, options).values()
    assert isinstance(engine, TorchEngine)
    latency, samples = options.latency or engine.latencies[0], speech(options.seconds)
    chunk = engine.chunk_for(latency)
    step = engine.samples_next(chunk) / audio.SAMPLE_RATE
    millions = sum(p.numel() for p in asr.load(bundle).parameters()) / 1e6
    print(
        f"{millions:.1f} M parameters, {1000 * step:g} ms steps, {options.threads} threads, {options.engine} "
        f"{options.precision}, batches of {options.max_batch} at most"
    )
    carries = 1.0
    for batch in (1, 8, 32):
        each, cpu = (x / batch for x in step_seconds(engine, chunk, batch, samples, 8))
        carries = step / each if batch <= options.max_batch else carries
        print(
            f"engine, batch {batch:2d}: {1000 * each:6.2f} ms a stream-step ({1000 * cpu:.2f} of processor time), "
            f"{step / each:5.1f} streams"
        )
    print("milliseconds, p50 / p95 / p99")
    best, late = 0, math.inf
    with server(
        bundle, options.threads, options.max_batch, precision=options.precision, engine=options.engine
    ) as (url, process):
        idle, _ = memory_and_time(process)
        until = time.monotonic() + 60 * options.minutes
        count = options.start or max(2, int(carries / 2))
        while count <= options.most and time.monotonic() + options.seconds + 3 < until:
            if round_of(url, process, count, samples, latency, idle):
                best = count
            else:
                late = count
            if late - best <= max(1.0, 0.04 * best):
                break
            count = max(count + 1, int(count * options.grow)) if late == math.inf else (best + int(late)) // 2
            if count <= best:
                break
    found = "at least " if late == math.inf else ""
    print(f"{found}{best} streams, {best / options.threads:.1f} a core")


def round_of(url: str, process: int, count: int, samples: np.ndarray, latency: int, idle: float) -> bool:
    """Whether so many streams come in time."""
    _, before = memory_and_time(process)
    begin = time.monotonic()
    heard = asyncio.run(streams(url, count, samples, latency))
    resident, after = memory_and_time(process)
    first, words, final, behind = (
        [x for h in heard for x in getattr(h, name)] for name in ("first", "words", "final", "behind")
    )
    share = (after - before) / (time.monotonic() - begin)
    note = ""
    if (own := float(np.percentile(behind, 95))) > 0.05:
        note = f"; the clients were {1000 * own:.0f} ms behind themselves"
    print(
        f"{count:4d} streams: {percentiles('first', first)}, {percentiles('word', words)}, "
        f"{percentiles('final', final)}; {100 * share:.0f} % of a core, "
        f"{(resident - idle) / count:.1f} MB a session{note}",
        flush=True,
    )
    return bool(np.percentile(final, 95) <= LATE)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a bundle; default: the embedded one")
    parser.add_argument("--size", choices=["s", "m", "l"], help="a Zipformer of random weights instead")
    parser.add_argument("--latency", type=int, help="one of the model's; default: its first")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-batch", type=int, default=64, help="1: one by one")
    parser.add_argument("--engine", default="torch", help="torch or onnx")
    parser.add_argument("--precision", default="float32", help="float32, bfloat16 or int8")
    parser.add_argument("--seconds", type=float, default=12.0, help="of each stream")
    parser.add_argument("--minutes", type=float, default=2.5, help="of rounds with a server")
    parser.add_argument("--start", type=int, help="streams at first")
    parser.add_argument("--grow", type=float, default=1.3, help="by what their number is multiplied")
    parser.add_argument("--most", type=int, default=1000)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.port:
        serve(options)
    elif options.size:
        with tempfile.TemporaryDirectory() as folder:
            measure(options, random_model(options.size).save(Path(folder) / "bundle"))
    else:
        measure(options, options.model or embedded_model())


if __name__ == "__main__":
    main()
