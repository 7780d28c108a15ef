"""What runs a step. The scheduler knows an engine by this protocol only, never by the library underneath."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch

from asr.audio import SAMPLE_RATE
from asr.errors import ConfigError
from asr.language_model import load
from asr.language_model.ngram import TokenNgrams
from asr.native.memory import keep_freed_memory
from asr.packed_state import join, split
from asr.search.config import SearchConfig

if TYPE_CHECKING:
    from asr.calibration import Calibration
    from asr.encoders import Chunk
    from asr.heads import Emission
    from asr.model import Model
    from asr.tokenizer import Tokenizer

__all__ = ["Batch", "Engine", "Precision", "TorchEngine", "named", "warm_up"]

Precision = Literal["float32", "bfloat16", "int8"]


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
    language_models: tuple[str, ...]
    """Names that a session's search may have, and nothing else: no path of a client's is ever opened."""
    bigrams: tuple[str, ...]
    """Those of them that `SearchConfig.lodr` may name."""

    def kinds(self, head: str) -> tuple[str, ...]:
        """The kinds of search that a head has."""
        ...

    def search(self, config: SearchConfig) -> SearchConfig:
        """A session's search with what it names. Raises ConfigError for a language model that is not there."""
        ...

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

    def calibration(self, chunk: Chunk, head: str | None) -> Calibration:
        """What is known of the times and confidences of words."""
        ...

    def keeps_back(self, head: str | None, search: SearchConfig) -> bool:
        """Whether a stream's emissions are not all it has said: beams do, and attention until a segment is over. Only
        then `tail` and `finish` are asked.
        """
        ...

    def tail(self, state: Any, head: str | None) -> list[Emission]:
        """What a stream's best hypothesis says beyond its emissions so far."""
        ...

    def finish(self, state: Any, head: str | None, search: SearchConfig) -> list[Emission]:
        """How a stream's emissions end."""
        ...


class TorchEngine:
    """A `Model` in PyTorch, which it changes: from now on the model is for this engine.

    `threads` is the number of cores that one operation may use; it is a setting of the process. `None` leaves
    it. `precision`: int8 multiplies the blocks of a Zipformer in bytes; bfloat16 is all of the model in it, faster
    where the processor multiplies matrices of it (AMX, GPUs) and slower where it does not. `language_models`: name ->
    file or bundle; all are loaded now.

    Raises ConfigError: an offline model, int8 for a model or processor that cannot have it, a language model of other
    tokens. DataError, BundleError: a language model that cannot be read.
    """

    def __init__(
        self,
        model: Model,
        *,
        threads: int | None = None,
        precision: Precision = "float32",
        language_models: Mapping[str, str] | None = None,
    ) -> None:
        if threads is not None:
            if threads < 1:
                raise ConfigError(f"threads is {threads}; at least 1 is needed")
            torch.set_num_threads(threads)
        self.model = model.eval().bfloat16() if precision == "bfloat16" else model.eval()
        pack = getattr(model.encoder, "pack", None)
        if callable(pack):
            pack(int8=precision == "int8")  # its weights are final now
        elif precision == "int8":
            raise ConfigError("precision: int8 is there for Zipformer only; use float32")
        self.latencies = tuple(model.latencies)
        if not self.latencies:
            raise ConfigError("this is an offline model, trained for no latency: it cannot serve live audio")
        self.heads = tuple(model.heads)
        self.frame_seconds = model.frame_seconds
        self.flush_samples = model.flush_samples
        self.tokenizer = model.tokenizer
        self._device = next(model.parameters()).device
        self._files = dict(language_models or {})
        loaded = {name: load(path, self.tokenizer, self._device) for name, path in self._files.items()}
        self.language_models = tuple(loaded)
        self.bigrams = tuple(name for name, lm in loaded.items() if isinstance(lm, TokenNgrams))

    def kinds(self, head: str) -> tuple[str, ...]:
        return tuple(self.model.head(head).searches)

    def search(self, config: SearchConfig) -> SearchConfig:
        lm = self._file("lm", config.lm, self.language_models)
        return replace(config, lm=lm, lodr=self._file("lodr", config.lodr, self.bigrams))

    def _file(self, field: str, name: str | None, names: Sequence[str]) -> str | None:
        if name is not None and name not in names:
            raise ConfigError(f"search.{field}: no {name!r} here; there is {', '.join(names) or 'none'}")
        return None if name is None else self._files[name]

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

    def calibration(self, chunk: Chunk, head: str | None) -> Calibration:
        return self.model.calibration(head, chunk)

    def keeps_back(self, head: str | None, search: SearchConfig) -> bool:
        return not search.greedy or bool(self.model.head(head).keeps_back)

    def tail(self, state: Any, head: str | None) -> list[Emission]:
        with torch.inference_mode():
            return self.model.tail(join([state]), head)[0]

    def finish(self, state: Any, head: str | None, search: SearchConfig) -> list[Emission]:
        with torch.inference_mode():
            return self.model.finish(join([state]), head, search)[0][0].emissions


def named(engines: Engine | Mapping[str, Engine]) -> dict[str, Engine]:
    """Several engines by the names of their models. One alone has none, and needs none."""
    return dict(engines) if isinstance(engines, Mapping) else {"": engines}


def warm_up(engine: Engine, *, batches: Sequence[int] = (1,)) -> Iterator[tuple[int, float, float]]:
    """Step silence through every latency and head, in batches of these sizes: no client then waits for a first
    call's allocations, nor for Python to look for garbage in all that has been imported. Yields streams, seconds of
    audio and seconds of time of steps that were warm.
    """
    keep_freed_memory()  # here, for a process that steps: one that only answers sockets would spread over what it keeps
    greedy = SearchConfig()
    for latency_ms in engine.latencies:
        chunk = engine.chunk_for(latency_ms)
        first, size = engine.samples_first(chunk), engine.samples_next(chunk)
        # The encoder is the same under every head, so the others need one latency only.
        for head in engine.heads if latency_ms == engine.latencies[0] else engine.heads[:1]:
            for batch in batches:
                states: Sequence[Any] = [engine.init_state(chunk, head, greedy) for _ in range(batch)]
                for number, samples in enumerate((first, size, size)):
                    step = Batch(
                        chunk=chunk,
                        head=head,
                        samples=np.zeros((batch, samples), np.float32),
                        lens=np.full(batch, samples, np.int64),
                        states=states,
                        searches=[greedy] * batch,
                    )
                    begin = time.perf_counter()
                    _, states = engine.step(step)
                    if number == 2:
                        yield batch, batch * samples / SAMPLE_RATE, time.perf_counter() - begin
    gc.collect()
    gc.freeze()
