"""Does memory stay flat? Hours of audio through one session, then thousands of short sessions, through a real server.

    python tools/bench/soak.py                                  # 10 hours, then 10,000 sessions; data/models/mini
    python tools/bench/soak.py --hours 1 --sessions 1000 --model runs/an4/bundle

Audio is sent as fast as the server takes it, over the loopback, to a server of its own, with a process that steps for
each thread. The resident memory of each (without files) is read as it goes; what it is after a tenth of the work is the
baseline. Exits with 1 where that of any has moved by 2 % or more. The memory of all together, what they share counted
once, is printed, too: it may rise while none has more, because they begin as copies of one process, and what
one writes to is no longer shared.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import numpy as np
from resident import memory
from serve import server, speech
from websockets.asyncio.client import connect

ALLOWED = 0.02
PIECE = 16_000  # samples of a message


def moved(sizes: Sequence[float]) -> float:
    """By how much of the baseline, the first of the sizes after a tenth of them, any later one differs."""
    first = len(sizes) // 10
    return max(abs(size / sizes[first] - 1) for size in sizes[first:])


def listed(megabytes: Sequence[float]) -> str:
    return " ".join(f"{x:.1f}" for x in megabytes)


async def talk(url: str, data: np.ndarray, seconds: float, told: Callable[[float], None]) -> int:
    """One session of so many seconds of `data` over and over. How many words came."""
    words = 0
    async with connect(url, compression=None, ping_timeout=None, max_size=None) as channel:
        latency = max(json.loads(await channel.recv())["latencies_ms"])  # the least work
        await channel.send(json.dumps({"type": "start", "partials": False, "latency_ms": latency}))

        async def send() -> None:
            for i in range(int(seconds)):
                await channel.send(
                    np.take(data, np.arange(i * PIECE, (i + 1) * PIECE), mode="wrap").tobytes()
                )
                told(i + 1.0)
            await channel.send('{"type": "end"}')

        sender = asyncio.create_task(send())
        async for raw in channel:
            message = json.loads(raw)
            if message["type"] == "error":
                raise SystemExit(f"the server says: {message['message']}")
            words += len(message["words"]) if message["type"] == "final" else 0
        await sender
        assert message["code"] == "ended", message
    return words


async def one_long(url: str, data: np.ndarray, hours: float, note: Callable[[float], None]) -> None:
    seconds = int(3600 * hours)
    every = max(1, seconds // 100)
    words = await talk(url, data, seconds, lambda at: note(at / seconds) if at % every == 0 else None)
    print(f"{hours:g} hours: {words} words")


async def many_short(url: str, data: np.ndarray, count: int, note: Callable[[float], None]) -> None:
    done, places = 0, asyncio.Semaphore(8)

    async def one(i: int) -> None:
        nonlocal done
        async with places:
            await talk(url, np.roll(data, -997 * i), 1 + i % 3, lambda _: None)
        done += 1
        if done % max(1, count // 100) == 0:
            note(done / count)

    for begin in range(0, count, 500):  # tasks are memory, too, but not the server's
        await asyncio.gather(*(one(i) for i in range(begin, min(count, begin + 500))))
    print(f"{count} sessions")


def watch(process: int, work: Callable[[Callable[[float], None]], Awaitable[None]]) -> float:
    """By how much the memory of the server's process, or of one of its own, moved during the work."""
    sizes: list[list[float]] = []
    begin = time.monotonic()

    def note(share: float) -> None:
        sizes.append(memory(process, "Anonymous"))
        if len(sizes) % 10 == 0:
            print(
                f"{100 * share:4.0f} %  {listed(sizes[-1])} MB, together {sum(memory(process, 'Pss_Anon')):.1f}"
                f"  {time.monotonic() - begin:6.0f} s",
                flush=True,
            )

    asyncio.run(work(note))  # type: ignore[arg-type]
    changes = [moved(column) for column in zip(*sizes, strict=True)]
    print(f"after the first tenth memory moved by {' '.join(f'{100 * x:.2f}' for x in changes)} %")
    return max(changes)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=Path(__file__).parents[2] / "data" / "models" / "mini")
    parser.add_argument("--hours", type=float, default=10.0)
    parser.add_argument("--sessions", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    data = (speech(120.0) * 32767).astype("<i2")
    with server(options.model, options.threads, 64) as (url, process):
        changes = []
        if options.hours:
            changes.append(watch(process, lambda note: one_long(url, data, options.hours, note)))
        if options.sessions:
            changes.append(watch(process, lambda note: many_short(url, data, options.sessions, note)))
    sys.exit(int(max(changes, default=0.0) >= ALLOWED))


if __name__ == "__main__":
    main()
