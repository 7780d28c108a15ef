"""What runs a step. The scheduler knows an engine by this protocol only, never by the library underneath."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from asr.errors import ConfigError
from asr.native.memory import keep_freed_memory
from asr.packed_state import join, split
from asr.search.config import SearchConfig

if TYPE_CHECKING:
    from asr.encoders import Chunk
    from asr.heads import Emission
    from asr.model import Model
    from asr.tokenizer import Tokenizer

__all__ = ["Batch", "Engine", "TorchEngine", "warm_up"]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One step for B streams of one chunk size, head and group of searches (`SearchConfig.group`).

    `samples` (B, S) float32 at 16 kHz, zero beyond `lens` (B,) int64. For streams at their first step S is
    `samples_first`, later `samples_next`; at their last it is up to a chunk more, and `lens` is short of it.
    `states` are the B streams' own, each as `Engine.init_state` or an earlier step made it; `searches` those that
    they were made for.
    """

    chunk: Chunk
    head: str | None
    samples: np.ndarray
    lens: np.ndarray
    states: Sequence[Any]
    searches: Sequence[SearchConfig]


class Engine(Protocol):
    """One model, ready to step. All calls come from one thread. States are values: a failed step changes
    none.
    """

    latencies: tuple[int, ...]
    """Milliseconds, of which a session chooses one."""
    heads: tuple[str, ...]
    frame_seconds: float
    flush_samples: int
    """Silence that must follow the last word for the model to emit it."""
    tokenizer: Tokenizer

    def chunk_for(self, latency_ms: int) -> Chunk: ...

    def samples_first(self, chunk: Chunk) -> int:
        """Samples that a stream's first step takes; `samples_next` are those of each later one."""
        ...

    def samples_next(self, chunk: Chunk) -> int: ...

    def init_state(self, chunk: Chunk, head: str | None, search: SearchConfig) -> Any:
        """The state of one new stream. Raises ConfigError for a search that this engine cannot do."""
        ...

    def step(self, batch: Batch) -> tuple[list[list[Emission]], list[Any]]:
        """The B streams' new emissions and their next states, each a copy that shares no memory with the
        batch.
        """
        ...

    def tail(self, state: Any, head: str | None) -> list[Emission]:
        """What a stream's best hypothesis says beyond its emissions so far. Asked of beam searches only."""
        ...

    def finish(self, state: Any, head: str | None, search: SearchConfig) -> list[Emission]:
        """How a stream's emissions end. Asked of beam searches only."""
        ...


class TorchEngine:
    """A `Model` in PyTorch. `int8` multiplies the encoder in bytes where it can, or raises ConfigError.

    `threads` is the number of cores that one operation may use; it is a setting of the process. `None` leaves
    it.
    """

    def __init__(self, model: Model, *, threads: int | None = None, int8: bool = False) -> None:
        if threads is not None:
            if threads < 1:
                raise ConfigError(f"threads is {threads}; at least 1 is needed")
            torch.set_num_threads(threads)
        self.model = model.eval()
        keep_freed_memory()
        pack = getattr(model.encoder, "pack", None)
        if callable(pack):
            pack(int8=int8)  # its weights are final now
        elif int8:
            raise ConfigError("int8 is there for Zipformer only")
        self.latencies = tuple(model.latencies)
        if not self.latencies:
            raise ConfigError("this is an offline model, trained for no latency: it cannot serve live audio")
        self.heads = tuple(model.heads)
        self.frame_seconds = model.frame_seconds
        self.flush_samples = model.flush_samples
        self.tokenizer = model.tokenizer
        self._device = next(model.parameters()).device

    def chunk_for(self, latency_ms: int) -> Chunk:
        return self.model.chunk_for(latency_ms)

    def samples_first(self, chunk: Chunk) -> int:
        return self.model.samples_first(chunk)

    def samples_next(self, chunk: Chunk) -> int:
        return self.model.samples_next(chunk)

    def init_state(self, chunk: Chunk, head: str | None, search: SearchConfig) -> Any:
        with torch.inference_mode():
            return split(self.model.init_state(1, chunk, head, search))[0]

    def step(self, batch: Batch) -> tuple[list[list[Emission]], list[Any]]:
        with torch.inference_mode():
            samples = torch.from_numpy(batch.samples).to(self._device)
            lens = torch.from_numpy(batch.lens).to(self._device)
            state = join(batch.states)
            emissions, state = self.model.step(samples, lens, state, batch.chunk, batch.head, batch.searches)
            return emissions, split(state)

    def tail(self, state: Any, head: str | None) -> list[Emission]:
        with torch.inference_mode():
            return self.model.tail(join([state]), head)[0]

    def finish(self, state: Any, head: str | None, search: SearchConfig) -> list[Emission]:
        with torch.inference_mode():
            return self.model.finish(join([state]), head, search)[0][0].emissions


def warm_up(engine: Engine, *, batch: int = 1) -> None:
    """Step silence through every latency and head: no client then waits for a first call's allocations, nor for
    Python to look for garbage in all that has been imported.
    """
    greedy = SearchConfig()
    for latency_ms in engine.latencies:
        chunk = engine.chunk_for(latency_ms)
        # The encoder is the same under every head, so the others need one latency only.
        for head in engine.heads if latency_ms == engine.latencies[0] else engine.heads[:1]:
            states: Sequence[Any] = [engine.init_state(chunk, head, greedy) for _ in range(batch)]
            for size in (engine.samples_first(chunk), engine.samples_next(chunk), engine.samples_next(chunk)):
                lens = np.full(batch, size, np.int64)
                silence = np.zeros((batch, size), np.float32)
                searches = [greedy] * batch
                step = Batch(
                    chunk=chunk, head=head, samples=silence, lens=lens, states=states, searches=searches
                )
                _, states = engine.step(step)
    gc.collect()
    gc.freeze()
