"""How many live streams a server carries: N real sockets at the pace of speech, N raised until they come late.

    python tools/bench/serve.py                                    # the embedded model, its first latency, 2 threads
    python tools/bench/serve.py --size s --precision int8          # a Zipformer-S of random weights: speed only
    python tools/bench/serve.py --size m --max-batch 1             # one by one, for comparison

N sessions are open at any time: each client has one after another, of lengths around `--seconds`, so that they begin
and end at any time. What is heard counts once all are under way, for `--window` seconds. With `--burst` all begin, and
so end, within a second. Streams are late when the 95th percentile of final latency, from the last audio sent to the
last text, passes 500 ms. The first N is half of what the engine alone would carry; from there it grows until streams
are late, and is then searched between, for `--minutes` at most. The server is a process of its own; its memory is that
of all sessions over that of none, its steps are those of its metrics. The clients run here and take CPU, too: on a
machine of few cores the figures are a lower bound; where they are behind their own pace, it is said.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import multiprocessing
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import torch
from resident import memory_and_time
from websockets.asyncio.client import connect

import asr
from asr import audio
from asr.encoders import Chunk, ZipformerConfig
from asr.model import Model, ModelConfig
from asr.paths import embedded_model
from asr.search.config import SearchConfig
from asr.tokenizer import Tokenizer
from streaming.engine import Batch, Engine, TorchEngine
from streaming.engines import load_engines, share
from streaming.protocols import Limits
from streaming.server import Server, Settings, run

SPEECH = Path(__file__).parents[2] / "data" / "mini" / "audio"
PACKET = 0.1  # seconds
LATE = 0.5  # seconds
# What is measured is where text comes late, which the server would not let happen.
LIMITS = Limits(sessions=10_000, lag_seconds=None, session_seconds=1e6)


@dataclass
class Heard:
    """All clients' seconds, `since` a time."""

    since: float
    first: list[float] = field(default_factory=list)
    words: list[float] = field(default_factory=list)
    final: list[float] = field(default_factory=list)
    behind: list[float] = field(default_factory=list)
    """The client itself, its audio."""

    def note(self, name: str, seconds: float) -> None:
        if time.monotonic() >= self.since:
            getattr(self, name).append(seconds)


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
    """Seconds of a step of the engine alone, in the mean: by the clock, and of all threads together."""
    greedy, at = SearchConfig(), engine.samples_first(chunk)
    states = [engine.init_state(chunk, None, greedy) for _ in range(batch)]
    for i in range(-2, repeats):
        if i == 0:
            begin, cpu = time.perf_counter(), time.process_time()
        size = engine.samples_first(chunk) if i == -2 else engine.samples_next(chunk)
        rows = [np.take(samples, np.arange(at, at + size) + 997 * b, mode="wrap") for b in range(batch)]
        step = Batch(
            chunk=chunk, head=None, samples=np.stack(rows), lens=np.full(batch, size, np.int64), states=states,
            searches=[greedy] * batch,
        )  # fmt: skip
        _, states = engine.step(step)
        at += size
    return (time.perf_counter() - begin) / repeats, (time.process_time() - cpu) / repeats


def beside_one_another(processes: int, work: Callable[[], tuple[float, float]]) -> tuple[float, float]:
    """The same work in copies of this process: seconds of all of it as if one had done it, and of processor time."""
    context = multiprocessing.get_context("fork")
    told = context.SimpleQueue()
    copies = [context.Process(target=lambda: told.put(work())) for _ in range(processes)]
    for copy in copies:
        copy.start()
    clocks, times = zip(*(told.get() for _ in copies), strict=True)
    for copy in copies:
        copy.join()
    return 1 / sum(1 / clock for clock in clocks), sum(times) / processes


async def session(url: str, samples: np.ndarray, latency_ms: int, heard: Heard) -> None:
    """One stream of the native protocol."""
    shown, rate = set(), audio.SAMPLE_RATE
    data, done, last, first = (samples * 32767).astype("<i2").tobytes(), math.inf, 0.0, True
    async with connect(url, compression=None, ping_timeout=None, open_timeout=60) as channel:
        await channel.send(json.dumps({"type": "start", "sample_rate": rate, "latency_ms": latency_ms}))
        began, size = time.monotonic(), int(PACKET * rate)

        async def send() -> None:
            nonlocal done
            for i in range(0, len(samples), size):
                await asyncio.sleep(began + (i + size) / rate - time.monotonic())
                heard.note("behind", time.monotonic() - began - (i + size) / rate)
                await channel.send(data[2 * i : 2 * (i + size)])
            done = time.monotonic()
            await channel.send('{"type": "end"}')

        sender, told = asyncio.create_task(send()), False
        try:
            async for raw in channel:
                message, now = json.loads(raw), time.monotonic()
                if message["type"] in ("partial", "final"):
                    last = now
                    for i, word in enumerate(message["words"]):
                        if (message["segment"], i) not in shown:
                            shown.add((message["segment"], i))
                            late = now - began - min(word["end"], len(samples) / rate)
                            heard.note("first" if first else "words", late)
                            first = False
                elif message["type"] == "error":
                    raise SystemExit(f"the server says: {message['message']}")
            told = True
        finally:
            sender.cancel()
            if last and done < math.inf:  # where the round is over, it is as late as that at least
                heard.note("final", max(0.0, last - done) if told else time.monotonic() - done)


async def client(
    url: str, samples: np.ndarray, latency_ms: int, heard: Heard, seconds: float, seed: int, burst: bool
) -> None:
    """Sessions one after another, or one alone in a `burst`."""
    generator = np.random.default_rng(seed)
    await asyncio.sleep(generator.uniform(0, 1 if burst else seconds))
    while True:
        length = seconds if burst else seconds * generator.uniform(0.5, 1.5)
        part = np.roll(samples, -int(generator.integers(len(samples))))[: int(length * audio.SAMPLE_RATE)]
        await session(url, part, latency_ms, heard)
        if burst:
            return


async def streams(
    url: str,
    count: int,
    samples: np.ndarray,
    latency_ms: int,
    begin: Callable[[], None],
    options: argparse.Namespace,
) -> Heard:
    """So many streams at a time, once all have begun: then `begin` is called."""
    warming = 0.0 if options.burst else options.seconds
    heard = Heard(time.monotonic() + warming)
    clients = [
        asyncio.create_task(client(url, samples, latency_ms, heard, options.seconds, seed, options.burst))
        for seed in range(count)
    ]
    await asyncio.sleep(warming)
    begin()
    timeout = None if options.burst else options.window
    done, running = await asyncio.wait(clients, timeout=timeout, return_when=asyncio.FIRST_EXCEPTION)
    for one in running:
        one.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    for one in done:
        one.result()
    return heard


def percentiles(values: Sequence[float]) -> str:
    return " / ".join(f"{1000 * np.percentile(values, p):.0f}" for p in (50, 95, 99)) if values else "none"


def steps_of(url: str) -> tuple[float, float, float, float]:
    """The steps that a server has taken: how many, the streams in them, their seconds, those of the longest waits."""
    with urlopen(url.replace("ws", "http", 1).replace("/v1/stream", "/metrics")) as response:
        lines = [line.split() for line in response.read().decode().splitlines() if line[0] != "#"]
    told = {name: float(value) for name, value in lines}
    names = ("step_seconds_count", "batch_streams_sum", "step_seconds_sum", "wait_seconds_sum")
    count, streams, seconds, waits = (told[f"rill_{name}"] for name in names)
    return count, streams, seconds, waits


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

    processes, _ = share(options.threads, engine=options.engine)
    settings = Settings(port=options.port, limits=LIMITS, max_batch=options.max_batch, processes=processes)
    run(engines(options.model, options), settings, started=started)


def engines(bundle: Path, options: argparse.Namespace) -> dict[str, Engine]:
    """As each process has them."""
    _, threads = share(options.threads, engine=options.engine)
    return load_engines([str(bundle)], engine=options.engine, precision=options.precision, threads=threads)


def measure(options: argparse.Namespace, bundle: Path) -> None:
    (engine,) = engines(bundle, options).values()
    assert isinstance(engine, TorchEngine)
    processes, threads = share(options.threads, engine=options.engine)
    latency, samples = options.latency or engine.latencies[0], speech(60.0)
    chunk = engine.chunk_for(latency)
    step = engine.samples_next(chunk) / audio.SAMPLE_RATE
    millions = sum(p.numel() for p in asr.load(bundle).parameters()) / 1e6
    print(
        f"{millions:.1f} M parameters, {1000 * step:g} ms steps, {processes} processes of {threads} "
        f"threads, {options.engine} {options.precision}, batches of {options.max_batch} at most"
    )
    carries = 1.0
    for batch in (1, 8, 32):
        alone = partial(step_seconds, engine, chunk, batch, samples, 8)
        each, cpu = (x / batch for x in beside_one_another(processes, alone))
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
        takes = options.seconds + (3 if options.burst else options.window)
        while count <= options.most and time.monotonic() + takes < until:
            if round_of(url, process, count, samples, latency, idle, options):
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


def round_of(
    url: str,
    process: int,
    count: int,
    samples: np.ndarray,
    latency: int,
    idle: float,
    options: argparse.Namespace,
) -> bool:
    """Whether so many streams come in time."""

    def now() -> np.ndarray:
        own, (resident, used) = time.process_time(), memory_and_time(process)
        return np.array([time.monotonic(), own, resident, used, *steps_of(url)])

    begins: list[np.ndarray] = []
    heard = asyncio.run(streams(url, count, samples, latency, lambda: begins.append(now()), options))
    resident = (after := now())[2]
    seconds, own, _, used, steps, batch, took, waits = after - begins[0]
    told = ", ".join(
        f"{name} {percentiles(getattr(heard, name))}" for name in ("first", "words", "final", "behind")
    )
    print(
        f"{count:4d} streams: {told}\n"
        f"     {len(heard.final)} finals; server {100 * used / seconds:.0f} % of a core, clients "
        f"{100 * own / seconds:.0f} %; steps of {batch / steps:.1f} streams, "
        f"{1000 * took / steps:.0f} ms after {1000 * waits / steps:.0f} ms; "
        f"{(resident - idle) / count:.1f} MB a session",
        flush=True,
    )
    return bool(np.percentile(heard.final, 95) <= LATE)


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
    parser.add_argument("--seconds", type=float, default=12.0, help="of a session, in the mean")
    parser.add_argument("--window", type=float, default=20.0, help="seconds that count of a round")
    parser.add_argument("--burst", action="store_true", help="all sessions begin and end together")
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
