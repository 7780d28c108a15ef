"""A model small enough to train within a test, and a corpus of tones."""

from __future__ import annotations

import json
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from asr.dataset import Batch
from asr.encoders.base import FULL_CONTEXT, Chunk
from asr.features import FeaturesConfig, LogMel
from asr.heads import CTC, CTCConfig
from asr.model import Model, ModelConfig
from asr.tokenizer import Tokenizer


class Letters(Tokenizer):
    """A token for each letter from a; 0 is the blank."""

    def __init__(self) -> None:
        super().__init__("characters", json.dumps({"characters": ["<blk>", *"abcd"]}).encode())

    def encode(self, text: str) -> list[int]:
        return [ord(letter) - ord("a") + 1 for letter in text.lower()]


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

    def init_state(self, batch: int, chunk: Chunk) -> Tensor:
        return torch.zeros(batch)

    def step(self, x: Tensor, x_lens: Tensor, state: Tensor, chunk: Chunk) -> tuple[Tensor, Tensor, Tensor]:
        return *self(x, x_lens, chunk), state


class FakeCTC(CTC):
    def __init__(self) -> None:
        super().__init__(CTCConfig(dropout=0.0), 16, 5)
        self.poison = 0.0

    def loss(self, *args: Tensor, views: int = 1) -> dict[str, Tensor]:
        losses = super().loss(*args, views=views)
        return losses | {"ctc": losses["ctc"] + self.poison}


class FakeModel(Model):
    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.config = ModelConfig(transducer=None, flush_ms=100)
        self.tokenizer = Letters()
        self.features = LogMel(FeaturesConfig())
        self.encoder = FakeEncoder()
        self.heads = nn.ModuleDict({"ctc": FakeCTC()})
        self.frame_seconds, self.flush_samples = 0.04, 1600


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
