"""A model small enough to train within a test, and a corpus of tones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from asr.dataset import Batch
from asr.encoders.base import FULL_CONTEXT, Chunk
from asr.features import FeaturesConfig, LogMel
from asr.heads.base import Emission


class Letters:
    """A token for each letter from a; 0 is the blank."""

    size = 5

    def encode(self, text: str) -> list[int]:
        return [ord(letter) - ord("a") + 1 for letter in text]

    def decode(self, tokens: list[int]) -> str:
        return "".join(self.piece(token) for token in tokens)

    def piece(self, token: int) -> str:
        return chr(ord("a") + token - 1)


@dataclass(frozen=True)
class Position:
    frame: Tensor
    previous: Tensor


class FakeEncoder(nn.Module):
    """Each output frame sees its own four input frames, so every chunk size gives the same."""

    dim, subsampling, lookahead = 16, 4, 0
    chunk_sizes = (Chunk(4, 4), FULL_CONTEXT)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(320, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 16))
        self.counts: list[int] = []

    def set_batch_count(self, count: int) -> None:
        self.counts.append(count)

    def forward(self, x: Tensor, x_lens: Tensor, chunk: Chunk = FULL_CONTEXT) -> tuple[Tensor, Tensor]:
        x = x[:, : x.shape[1] // 4 * 4]
        return self.layers(0.1 * x.reshape(x.shape[0], -1, 320)), (x_lens // 4).clamp(max=x.shape[1] // 4)


class FakeCTC(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(16, 5)
        self.poison = 0.0

    def loss(self, y: Tensor, y_lens: Tensor, tokens: Tensor, token_lens: Tensor) -> dict[str, Tensor]:
        x = self.output(y).log_softmax(-1).transpose(0, 1)
        return {"ctc": nn.functional.ctc_loss(x, tokens, y_lens, token_lens, reduction="none") + self.poison}

    def init_state(self, batch: int) -> Position:
        return Position(torch.zeros(batch, dtype=torch.int64), torch.zeros(batch, dtype=torch.int64))

    def step(self, y: Tensor, y_lens: Tensor, state: Position) -> tuple[list[list[Emission]], Position]:
        best = self.output(y).log_softmax(-1).max(-1)
        found: list[list[Emission]] = []
        previous = state.previous.clone()
        for b, length in enumerate(y_lens.tolist()):
            found.append([])
            for u in range(length):
                token = int(best.indices[b, u])
                if token not in (0, int(previous[b])):
                    found[b].append(Emission(token, int(state.frame[b]) + u, float(best.values[b, u])))
                previous[b] = token
        return found, Position(state.frame + y_lens, previous)


class FakeModel(nn.Module):
    frame_seconds = 0.04
    flush_samples = 1600
    latencies = (160,)

    def __init__(self) -> None:
        super().__init__()
        self.features = LogMel(FeaturesConfig())
        self.encoder = FakeEncoder()
        self.heads = nn.ModuleDict({"ctc": FakeCTC()})
        self.tokenizer = Letters()

    def chunk_for(self, latency_ms: int | None) -> Chunk:
        return FULL_CONTEXT if latency_ms is None else Chunk(4, 4)

    def latency_ms(self, chunk: Chunk) -> int:
        return chunk.frames * 40

    def samples_next(self, chunk: Chunk) -> int:
        return chunk.frames * 640

    samples_first = samples_next

    def head(self, name: str | None = None) -> FakeCTC:
        return self.heads["ctc"]

    def flushed(self, samples: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
        extra = -(samples.shape[1] + self.flush_samples) % 160 + self.flush_samples
        return nn.functional.pad(samples, (0, extra)), lens + self.flush_samples

    def encode(self, samples: Tensor, lens: Tensor, chunk: Chunk = FULL_CONTEXT) -> tuple[Tensor, Tensor]:
        return self.encoder(self.features(samples), -(-lens // 160), chunk)

    def init_state(self, batch: int, chunk: Chunk = FULL_CONTEXT, head: str | None = None) -> Any:
        return self.features.init_state(batch), self.heads["ctc"].init_state(batch)

    def step(self, samples: Tensor, lens: Tensor, state: Any, chunk: Chunk, head: str | None = None) -> Any:
        x, features = self.features.step(samples, state[0])
        y, y_lens = self.encoder(x, -(-lens // 160), chunk)
        emissions, decoder = self.heads["ctc"].step(y, y_lens, state[1])
        return emissions, (features, decoder)


def tones(text: str, seed: int = 0) -> Tensor:
    """0.2 s for each letter, each with its own pitch, and a little silence between."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.arange(2560) / 16000
    parts = []
    for letter in text:
        pitch = 300.0 * 2 ** (ord(letter) - ord("a"))
        parts += [0.3 * torch.sin(2 * torch.pi * pitch * t), torch.zeros(640)]
    samples = torch.cat(parts)
    return samples + 0.001 * torch.randn(len(samples), generator=generator)


def batch_of(texts: list[str], *, seed: int = 0) -> Batch:
    samples = [tones(text, seed + i) for i, text in enumerate(texts)]
    tokens = [torch.tensor(Letters().encode(text)) for text in texts]
    return Batch(
        ids=tuple(f"utterance-{seed}-{i}" for i in range(len(texts))),
        samples=nn.utils.rnn.pad_sequence(samples, batch_first=True),
        sample_lens=torch.tensor([len(s) for s in samples]),
        tokens=nn.utils.rnn.pad_sequence(tokens, batch_first=True),
        token_lens=torch.tensor([len(t) for t in tokens]),
        texts=tuple(texts),
    )


class FakeLoader:
    """Four batches an epoch; stands where it stands, as the real one does."""

    seconds = 10.0
    texts = ("abca", "dab", "bdcc", "acdb")

    def __init__(self) -> None:
        self.epoch = self.batch = 0

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[Batch]:
        epoch = self.epoch
        for number in range(self.batch, 4):
            self.epoch, self.batch = (epoch, number + 1) if number < 3 else (epoch + 1, 0)
            shifted = [self.texts[(i + number + epoch) % 4] for i in range(3)]
            yield batch_of(shifted, seed=100 * epoch + 10 * number)

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.batch = state["epoch"], state["batch"]
