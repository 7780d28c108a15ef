"""A recogniser that hears numbers: each frame of 40 ms whose level is k/16 of full scale says the word k.

It has what a real one has (a state, a first step that brings more than the others, output that lags by what
it looks ahead and comes out where a stream ends), and what it says is known exactly: whatever a test finds is
the fault of what stands around it.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from asr.calibration import PLAIN, Calibration
from asr.encoders.base import Chunk
from asr.heads import Emission
from asr.search.config import SearchConfig
from asr.tokenizer import Tokenizer
from streaming.engine import Batch

FRAME = 640
LOOKAHEAD = 2080
PIECES = ("<blk>", "▁one", "▁two", "▁three", "▁four", "▁five", "▁six", "▁sev", "en")


def speech(*levels: int, frames: int = 1) -> np.ndarray:
    """One word a level, each `frames` long (it is said once); level 0 is silence."""
    return np.repeat(np.array(levels, np.float32) / 16, FRAME * frames)


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * 16_000), np.float32)


def s16le(samples: np.ndarray) -> bytes:
    return (samples * 32768).astype("<i2").tobytes()


def packets(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


TOKENIZER = Tokenizer.from_bytes("characters", json.dumps({"characters": PIECES}).encode())


@dataclass(frozen=True)
class ToyState:
    waiting: np.ndarray  # what the look-ahead still holds
    frame: int = 0
    previous: int = 0


@dataclass
class ToyEngine:
    """`seconds` is how long a step takes; a stream that says `poison` makes its step fail."""

    latencies: tuple[int, ...] = (160, 320, 640)
    heads: tuple[str, ...] = ("ctc", "transducer")
    frame_seconds: float = 0.04
    flush_samples: int = FRAME
    tokenizer: Tokenizer = TOKENIZER
    language_models: tuple[str, ...] = ()
    bigrams: tuple[str, ...] = ()
    seconds: float = 0.0
    poison: int | None = None
    batches: list[int] = field(default_factory=list)
    groups: list[tuple[Chunk, str | None, int]] = field(default_factory=list)

    def kinds(self, head: str) -> tuple[str, ...]:
        return ("greedy", "beam")

    def search(self, config: SearchConfig) -> SearchConfig:
        return config

    def chunk_for(self, latency_ms: int) -> Chunk:
        return Chunk(latency_ms // 40, 8)

    def samples_first(self, chunk: Chunk) -> int:
        return LOOKAHEAD + self.samples_next(chunk)

    def samples_next(self, chunk: Chunk) -> int:
        return chunk.frames * FRAME

    def init_state(self, chunk: Chunk, head: str | None, search: SearchConfig) -> ToyState:
        return ToyState(np.zeros(0, np.float32))

    def calibration(self, chunk: Chunk, head: str | None) -> Calibration:
        return PLAIN

    def keeps_back(self, head: str | None, search: SearchConfig) -> bool:
        return search.kind != "greedy"

    def tail(self, state: ToyState, head: str | None) -> list[Emission]:
        return []

    def finish(self, state: ToyState, head: str | None, search: SearchConfig) -> list[Emission]:
        return []

    def step(self, batch: Batch) -> tuple[list[list[Emission]], list[Any]]:
        assert not batch.samples[np.arange(batch.samples.shape[1]) >= batch.lens[:, None]].any()
        time.sleep(self.seconds)
        self.batches.append(len(batch.lens))
        self.groups.append((batch.chunk, batch.head, batch.samples.shape[1]))
        pairs = [
            self._stream(samples[: n if n == len(samples) else n + LOOKAHEAD], state)
            for samples, n, state in zip(batch.samples, batch.lens, batch.states, strict=True)
        ]
        return [emissions for emissions, _ in pairs], [state for _, state in pairs]

    def _stream(self, samples: np.ndarray, state: ToyState) -> tuple[list[Emission], ToyState]:
        waiting = np.concatenate([state.waiting, samples])
        frame, previous, emissions = state.frame, state.previous, []
        while len(waiting) >= FRAME + LOOKAHEAD:
            level = int(np.rint(abs(waiting[FRAME // 2]) * 16))
            if level == self.poison:
                raise RuntimeError("poisoned")
            if level and level != previous:
                tokens = (7, 8) if level == 7 else (min(level, 6),)
                emissions += [Emission(token=x, frame=frame, log_probability=-0.125) for x in tokens]
            waiting, frame, previous = waiting[FRAME:], frame + 1, level
        return emissions, ToyState(waiting.copy(), frame, previous)
