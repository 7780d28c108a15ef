"""The model: features, encoder, heads and tokenizer. READ FIRST.

Everything that turns audio into words goes through `Model.step`: offline transcription gives it whole files,
streaming gives it chunks, and both get the same tokens for the same chunk size.

    samples (B, S) -> LogMel.step -> Encoder.step -> Head.step -> new tokens of each stream
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from asr.audio import FRAMES_PER_SECOND, HOP, SAMPLE_RATE
from asr.calibration import PLAIN, Calibration
from asr.encoders import FULL_CONTEXT, Chunk, EncoderConfig, ZipformerConfig, build
from asr.encoders.taps import conditioned
from asr.errors import ConfigError
from asr.features import FeaturesConfig, LogMel
from asr.heads import (
    CTC,
    AttentionConfig,
    AttentionDecoder,
    CTCConfig,
    Emission,
    Transducer,
    TransducerConfig,
)
from asr.search.beam import Hypothesis
from asr.search.config import SearchConfig
from asr.search.plan import Plan
from asr.text import Normalizer
from asr.tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy as np

    from asr.transcript import Transcript

__all__ = ["Model", "ModelConfig", "ModelState", "Search"]

Search = SearchConfig | Sequence[SearchConfig | None] | None


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What a model is made of. A head that is null is left out; `decodes` names the one that decodes by default."""

    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    encoder: EncoderConfig = field(default_factory=ZipformerConfig)
    transducer: TransducerConfig | None = field(default_factory=TransducerConfig)
    ctc: CTCConfig | None = field(default_factory=CTCConfig)
    attention: AttentionConfig | None = None
    decodes: Literal["transducer", "ctc", "attention"] | None = None  # None: the first of them that is there
    flush_ms: int = 320  # silence after the last word that lets the model emit it; training adds it, too
    # What is put to references and hypotheses before they are compared, in validation and by `asr evaluate`.
    scoring: tuple[Normalizer, ...] = ("lower",)
    calibration: tuple[Calibration, ...] = ()  # `asr calibrate` measures it, training does at its end

    def __post_init__(self) -> None:
        if self.transducer is None and self.ctc is None and self.attention is None:
            raise ConfigError(
                "model: all heads, transducer, ctc and attention, are null; one at least must be there"
            )
        if self.decodes is not None and getattr(self, self.decodes) is None:
            raise ConfigError(f"model.decodes: {self.decodes} is null; name the other head, or none")
        if self.flush_ms % (1000 // FRAMES_PER_SECOND):
            raise ConfigError(f"model.flush_ms: {self.flush_ms} is not a whole number of 10 ms frames")


@dataclass(frozen=True)
class ModelState:
    """The states of a stream's (or a batch of streams') three parts."""

    features: Any
    encoder: Any
    head: Any


class Model(nn.Module):
    """B streams of S samples at 16 kHz."""

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        self.features = LogMel(config.features)
        self.encoder = build(config.encoder, config.features.bins)
        self.heads = nn.ModuleDict()
        if config.transducer is not None:
            self.heads["transducer"] = Transducer(config.transducer, self.encoder.dim, tokenizer.size)
        if config.ctc is not None:
            self.heads["ctc"] = head = CTC(
                config.ctc, self.encoder.dim, tokenizer.size, layer_dims=self.encoder.layer_dims
            )
            if config.ctc.self_conditioned:
                conditioned(self.encoder, config.ctc.inner_layers, head.condition)
            if config.transducer is not None:
                self.head("transducer").spare_by(self.heads["ctc"])
        if config.attention is not None:
            ctc: Any = self.heads["ctc"] if config.ctc is not None else None
            self.heads["attention"] = AttentionDecoder(
                config.attention, self.encoder.dim, tokenizer.size, ctc
            )
        self.frame_seconds = self.encoder.subsampling / FRAMES_PER_SECOND
        self.flush_samples = config.flush_ms * SAMPLE_RATE // 1000

    def latency_ms(self, chunk: Chunk) -> int:
        """How long after a chunk's first sample its words can be had: the chunk and the encoder's look-ahead."""
        frames = chunk.frames * self.encoder.subsampling + max(0, self.encoder.lookahead)
        return frames * 1000 // FRAMES_PER_SECOND

    @property
    def scoring(self) -> tuple[str, ...]:
        """Names of normalizers, see `asr.text`."""
        return self.config.scoring

    def calibration(self, head: str | None, chunk: Chunk) -> Calibration:
        """What is known of the head's words at the chunk's latency; nothing where it was not measured."""
        name = self.head_name(head)
        latency = None if chunk.full else self.latency_ms(chunk)
        known = {(one.head, one.latency_ms): one for one in self.config.calibration}
        return known.get((name, latency), PLAIN)

    @property
    def latencies(self) -> tuple[int, ...]:
        """Milliseconds that the model was trained for, lowest first; none for an offline model."""
        return tuple(sorted(self.latency_ms(chunk) for chunk in self.encoder.chunk_sizes if not chunk.full))

    def chunk_for(self, latency_ms: int | None) -> Chunk:
        """The chunk of the longest latency not over `latency_ms`; None asks for full context.

        Raises:
            ConfigError: the model has no latency as short.
        """
        if latency_ms is None:
            return FULL_CONTEXT
        chunks = [c for c in self.encoder.chunk_sizes if not c.full and self.latency_ms(c) <= latency_ms]
        if not chunks:
            offered = ", ".join(map(str, self.latencies)) or "none, for it is an offline model"
            raise ConfigError(
                f"latency_ms: {latency_ms} is below what the model was trained for (offered: {offered})"
            )
        return max(chunks, key=self.latency_ms)

    def samples_next(self, chunk: Chunk) -> int:
        """Samples in a chunk: what each step takes, or a multiple of it."""
        return chunk.frames * self.encoder.subsampling * HOP

    def samples_first(self, chunk: Chunk) -> int:
        """Samples that the first step of a stream takes: a chunk and the look-ahead."""
        return self.samples_next(chunk) + self.encoder.lookahead * HOP

    def flushed(self, samples: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S), (B,) -> the same in whole frames, with the silence after each that flushes its last word."""
        extra = -(samples.shape[1] + self.flush_samples) % HOP + self.flush_samples
        samples = nn.functional.pad(samples, (0, extra))
        return samples, (lens + self.flush_samples).clamp(max=samples.shape[1])

    def encode(self, samples: Tensor, lens: Tensor, chunk: Chunk = FULL_CONTEXT) -> tuple[Tensor, Tensor]:
        """Whole utterances, in whole frames: (B, S), (B,) -> encoder frames (B, U, D), (B,)."""
        return self.encoder(self.features(samples), -(-lens // HOP), chunk)

    def plan(self, search: Search, batch: int, head: str | None = None) -> Plan | None:
        """What a head is told about the search of a batch: one choice for all streams or one each; None is greedy.

        Raises ConfigError or DataError, as `Plan` does, and for a kind of search that the head does not know.
        """
        searches = [search] * batch if search is None or isinstance(search, SearchConfig) else search
        configs = [SearchConfig() if config is None else config for config in searches]
        for kind in {config.kind for config in configs} - set(known := self.head(head).searches):
            raise ConfigError(f"search.kind is {kind!r}; this head has {', '.join(known)}")
        if any(config.blank_skip is not None for config in configs) and not self.head(head).spared:
            raise ConfigError("search.blank_skip: it takes a transducer that decodes, and CTC beside it")
        if all(config.plain for config in configs):
            return None
        return Plan(configs, self.tokenizer, next(self.parameters()).device)

    def init_state(
        self, batch: int, chunk: Chunk = FULL_CONTEXT, head: str | None = None, search: Search = None
    ) -> ModelState:
        return ModelState(
            self.features.init_state(batch),
            self.encoder.init_state(batch, chunk),
            self.head(head).init_state(batch, self.plan(search, batch, head)),
        )

    def step(
        self,
        samples: Tensor,
        lens: Tensor,
        state: ModelState,
        chunk: Chunk = FULL_CONTEXT,
        head: str | None = None,
        search: Search = None,
    ) -> tuple[list[list[Emission]], ModelState]:
        """The next samples (B, S) of B streams -> each stream's new tokens, and the next state.

        With beam search, these are the tokens that will not change any more; `tail` tells those after them that may.
        S is `samples_first` at a stream's beginning and `samples_next` later, or whole chunks more; zeros fill up
        what a stream lacks at its end, and `lens` (B,) tells where that is.
        """
        x, features = self.features.step(samples, state.features)
        y, y_lens, encoder = self.encoder.step(x, -(-lens // HOP), state.encoder, chunk)
        plan = self.plan(search, len(samples), head)
        emissions, head_state = self.head(head).step(y, y_lens, state.head, plan)
        return emissions, ModelState(features, encoder, head_state)

    def tail(self, state: ModelState, head: str | None = None) -> list[list[Emission]]:
        """What each stream's best hypothesis has said beyond what `step` gave."""
        found: list[list[Emission]] = self.head(head).tail(state.head)
        return found

    def finish(
        self, state: ModelState, head: str | None = None, search: Search = None
    ) -> list[list[Hypothesis]]:
        """Where streams end: how the tokens that `step` gave go on, by each stream's hypotheses, best first."""
        plan = self.plan(search, len(self.tail(state, head)), head)
        found: list[list[Hypothesis]] = self.head(head).finish(state.head, plan)
        return found

    def head(self, name: str | None = None) -> Any:
        """The head of that name, or the one that decodes by default.

        Raises:
            ConfigError: the model has no such head.
        """
        return self.heads[self.head_name(name)]

    def head_name(self, name: str | None = None) -> str:
        """That name, or the one of the head that decodes by default. Raises ConfigError, as `head` does."""
        if name is None:
            name = self.config.decodes or str(next(iter(self.heads)))
        if name not in self.heads:
            raise ConfigError(f"head: {name!r} is not one of this model's: {', '.join(self.heads)}")
        return name

    def transcribe(
        self,
        audio: str | Path | np.ndarray,
        *,
        latency_ms: int | None = None,
        head: str | None = None,
        search: SearchConfig | None = None,
    ) -> Transcript:
        """Words with times and confidences of a file of any length and format, or of samples at 16 kHz.

        With `latency_ms`, exactly the words that a live session of that latency gives; without, full context.
        `search` chooses beam search, a language model, phrases to be recognised more readily; without, it is greedy.
        Phrases that cannot be boosted are told in a warning.
        Raises AudioError for audio that cannot be read, ConfigError for a latency or head that the model lacks.
        """
        from asr.transcribe import transcribe

        return transcribe(self, audio, latency_ms=latency_ms, head=head, search=search)

    def transcribe_files(self, paths: Sequence[str | Path], **options: Any) -> Any:
        """Many files, batched: see `asr.transcribe.transcribe_files`."""
        from asr.transcribe import transcribe_files

        return transcribe_files(self, paths, **options)

    def save(self, path: str | Path, *, card: str = "") -> Path:
        """Write the model as a bundle, a directory that `asr.load` reads; `card` says where it comes from."""
        from asr.bundle import save

        return save(self, path, card=card)
