"""The scheduler and the load together, in simulated time: streams come until they are refused, and none of them lags."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from streaming.engine import warm_up
from streaming.events import Options
from streaming.load import Load
from streaming.scheduler import Scheduler
from tests.streaming.toy_engine import ToyEngine, s16le, silence

PACKET = 0.1
LAG = 0.5


class Machine:
    """Streams at the pace of speech on an engine whose steps take `cost` seconds of the time that is told."""

    def __init__(self, cost: Callable[[int, float], float], *, max_batch: int = 64) -> None:
        self.engine = ToyEngine()
        self.scheduler = Scheduler(self.engine, max_batch=max_batch)
        self.load = Load(lag=LAG, max_batch=max_batch)
        self.cost = cost
        self.now = 0.0
        self.due: dict[str, float] = {}
        self.lags: list[tuple[float, str, float]] = []
        for streams, audio, _ in warm_up(self.engine, batches=sorted({1, min(8, max_batch)})):
            self.load.stepped("", streams, audio, cost(streams, audio))

    def full(self) -> bool:
        return self.load(self.now, streams=len(self.due) + 1) > 1

    def open(self, latency_ms: int) -> None:
        key = f"{len(self.due)}/{latency_ms}"
        self.scheduler.open(key, Options(latency_ms=latency_ms))
        self.due[key] = self.now + PACKET * (1 + 0.37 * len(self.due) % 1)

    def run(self, seconds: float) -> None:
        """As the runner does it: what has come, a step, again."""
        until, packet = self.now + seconds, s16le(silence(PACKET))
        while self.now < until:
            for key, due in self.due.items():
                while due <= self.now:
                    self.scheduler.push(key, packet, due)
                    due += PACKET
                self.due[key] = due
            begin = self.now
            tick = self.scheduler.tick(self.now)
            if tick.streams:
                spent = self.cost(tick.streams, tick.audio)
                self.now += spent
                self.load.stepped(tick.model, tick.streams, tick.audio, spent)
                self.load.waited(tick.waited, begin)
                self.lags += [(self.now, str(x.key), x.lag + spent) for x in tick.results]
            else:
                self.now = min(self.due.values(), default=self.now + PACKET)
            self.load.streams(self.scheduler.kinds())

    def late(self, since: float) -> float:
        return float(np.percentile([lag for at, _, lag in self.lags if at >= since], 99))


COSTS = {
    "mostly streams": lambda streams, audio: 0.005 + 0.03 * audio,
    "mostly steps": lambda streams, audio: 0.04 + 0.01 * audio,
    "concave": lambda streams, audio: 0.02 * audio**0.7 + 0.004,
}


@pytest.mark.parametrize("name", COSTS)
@pytest.mark.parametrize("latencies", [(320,), (160, 320, 640)], ids=str)
def test_streams_are_refused_before_the_open_ones_lag(name: str, latencies: tuple[int, ...]) -> None:
    machine = Machine(COSTS[name])
    while not machine.full() and len(machine.due) < 150:
        machine.open(latencies[len(machine.due) % len(latencies)])
        machine.run(0.3)
    count, since = len(machine.due), machine.now
    machine.run(6.0)
    assert machine.late(since) < LAG
    # And not for nothing: twice as many would lag, or be more than the test has patience for.
    if count <= 75:
        for _ in range(count):
            machine.open(latencies[len(machine.due) % len(latencies)])
        machine.run(3.0)
        since = machine.now
        machine.run(6.0)
        assert machine.late(since) > LAG / 2


def test_none_starves_beside_files_that_are_sent_as_fast_as_they_are_taken() -> None:
    machine = Machine(COSTS["mostly streams"], max_batch=4)
    for i in range(9):
        machine.open((160, 320, 640)[i % 3])
    for i in range(6):
        machine.scheduler.open(f"file {i}", Options(latency_ms=160))
    for second in range(10):
        for i in range(6):
            machine.scheduler.push(f"file {i}", s16le(silence(1.0)), float(second))
        machine.run(1.0)
    live = {key for _, key, _ in machine.lags if not key.startswith("file")}
    assert live == set(machine.due)
    assert max(lag for _, key, lag in machine.lags if key in live) < LAG
    assert len({key for _, key, _ in machine.lags}) == 15
