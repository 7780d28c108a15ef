"""Two servers behind a real nginx, with deploy's own configuration: one goes under 20 live streams, and every word
arrives: the text of each stream is, word for word, what was said in it, none missing, none twice, in order.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from streaming.client import Summary, stream
from streaming.events import Final
from tests.streaming.toy_engine import silence, speech

ROOT = Path(__file__).parents[2]
STREAMS = 20
PACE = 2.0  # seconds of audio in one
NUMBERS = ("one", "two", "three", "four", "five")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("nginx") is None, reason="no nginx: install it, e.g. apt install nginx-light"
    ),
]

SERVER = """
from tests.streaming.toy_engine import ToyEngine
from streaming.protocols import Limits
from streaming.server import Settings, run
limits = Limits(lag_seconds=60.0, drain_seconds=10.0)
run(ToyEngine(), Settings(port=0, limits=limits, proxies=("127.0.0.1",)), started=lambda server: print(server.port, flush=True))
"""


@contextmanager
def servers() -> Iterator[list[tuple[subprocess.Popen[str], int]]]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command, environment = [sys.executable, "-c", SERVER], {**os.environ, "PYTHONPATH": path}
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(2)
    ]
    try:
        yield [(process, int(process.stdout.readline())) for process in processes if process.stdout]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@contextmanager
def nginx(folder: Path, port: int, upstreams: list[int]) -> Iterator[None]:
    site = (ROOT / "deploy" / "rill.conf").read_text()
    for old, new in zip((8001, 8002, 8080), (*upstreams, port), strict=True):
        assert site.count(f"127.0.0.1:{old}") == 1
        site = site.replace(f"127.0.0.1:{old}", f"127.0.0.1:{new}")
    (folder / "rill.conf").write_text(site)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"{user} daemon off; worker_processes 1; pid {folder}/pid; error_log stderr notice;\n"
        f"events {{}}\nhttp {{ access_log off; {temporary} include {folder}/rill.conf; }}\n"
    )
    command = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr"]
    checked = subprocess.run([*command, "-t"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return str(answer.read().decode())


def sessions(port: int) -> int:
    lines = fetch(f"http://127.0.0.1:{port}/metrics").splitlines()
    return int(float(next(x.split()[1] for x in lines if x.startswith("rill_sessions "))))


def talk(seed: int) -> tuple[list[str], np.ndarray]:
    """Some 12 seconds, with pauses that end segments and pauses that do not."""
    rng, words, parts = random.Random(seed), [], []
    while sum(map(len, parts)) < 12 * 16_000:
        words.append(rng.randrange(1, 6))
        parts += [speech(words[-1], frames=4), silence(rng.choice([0.1, 0.3, 0.3, 1.5]))]
    return [NUMBERS[word - 1] for word in words], np.concatenate(parts)


async def live(samples: np.ndarray) -> AsyncIterator[np.ndarray]:
    for i in range(0, len(samples), 1600):
        await asyncio.sleep(0.1 / PACE)
        yield samples[i : i + 1600]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_one_server_goes_and_every_word_arrives(
    tmp_path: Path, unused_port: int, number: signal.Signals
) -> None:
    talks = [talk(seed) for seed in range(STREAMS)]
    url = f"ws://127.0.0.1:{unused_port}/v1/stream"

    async def listen(samples: np.ndarray) -> tuple[list[Final], Summary]:
        events = [event async for event in stream(live(samples), url, latency_ms=160)]
        assert isinstance(events[-1], Summary)
        return [x for x in events if isinstance(x, Final)], events[-1]

    async def test() -> list[tuple[list[Final], Summary]]:
        with servers() as running, nginx(tmp_path, unused_port, [port for _, port in running]):
            async with asyncio.timeout(240):
                page = ""
                while "<title>Rill" not in page:  # until nginx listens
                    page = await asyncio.to_thread(_page, unused_port)
                streams = [asyncio.create_task(listen(samples)) for _, samples in talks]
                await asyncio.sleep(3.0)
                before = [await asyncio.to_thread(sessions, port) for _, port in running]
                assert sum(before) == STREAMS and min(before) > STREAMS // 4, before
                running[0][0].send_signal(number)
                heard = await asyncio.gather(*streams)
                assert running[1][0].poll() is None
                if number == signal.SIGTERM:
                    assert await asyncio.to_thread(running[0][0].wait, 15) == 0
                metrics = await asyncio.to_thread(fetch, f"http://127.0.0.1:{running[1][1]}/metrics")
                opened = next(x for x in metrics.splitlines() if x.startswith("rill_sessions_opened_total{"))
                assert float(opened.split()[1]) == STREAMS  # its own, and those of the other
                return heard

    for (words, samples), (finals, summary) in zip(talks, asyncio.run(test()), strict=True):
        assert summary.text.split() == words
        assert [x.segment for x in finals] == list(range(len(finals)))
        assert summary.duration == pytest.approx(len(samples) / 16_000)


def _page(port: int) -> str:
    try:
        return fetch(f"http://127.0.0.1:{port}/")
    except OSError:
        return ""
