"""The label encoder of the Transformer Transducer (Zhang et al. 2020): attention over a limited number of tokens."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr.encoders.attention import AttentionState, Context
from asr.encoders.base import Chunk
from asr.encoders.feed_forward import Activation
from asr.encoders.positions import RelativePositions
from asr.encoders.transformer import TransformerBlock, TransformerConfig
from asr.errors import ConfigError
from asr.search.emission import BLANK

__all__ = ["LabelEncoder", "LabelEncoderConfig", "LabelEncoderState"]


@dataclass(frozen=True, kw_only=True)
class LabelEncoderConfig:
    """Layers like those of the `transformer` encoder; each sees `left` tokens before the present one.

    The paper's has `dim: 1024`, and 3 tokens of left context do as well as all. What a token depends on grows with the
    layers, what a step costs does not.
    """

    kind: Literal["transformer"] = "transformer"
    dim: int = 512
    layers: int = 2
    heads: int = 8
    head_dim: int = 64
    feed_forward_dim: int = 2048
    activation: Activation = "relu"
    dropout: float = 0.1
    attention_dropout: float = 0.1
    left: int = 3

    def __post_init__(self) -> None:
        if self.dim < 2 or self.dim % 2:
            raise ConfigError(f"predictor.dim: {self.dim} is odd; positions are pairs of sine and cosine")
        if min(self.layers, self.heads, self.head_dim, self.feed_forward_dim, self.left) < 1:
            raise ConfigError(
                "predictor: layers, heads, head_dim, feed_forward_dim and left must be 1 or more"
            )


@dataclass(frozen=True)
class LabelEncoderState:
    """position: (N,) tokens so far; layers: each one's keys and values of the last `left` tokens."""

    position: Tensor
    layers: tuple[AttentionState, ...]


class LabelEncoder(nn.Module):
    """Embedding, Transformer blocks, a norm: an encoder of tokens whose chunks are of one. See `Predictor`."""

    def __init__(self, config: LabelEncoderConfig, vocabulary: int) -> None:
        super().__init__()
        c = config
        self.dim, self.chunk = c.dim, Chunk(1, c.left)
        shared = {f.name: getattr(c, f.name) for f in fields(c) if f.name not in ("kind", "left")}
        block = TransformerConfig(**shared, chunks=())
        self.embedding = nn.Embedding(vocabulary, c.dim)
        self.positions = RelativePositions(c.dim)
        self.dropout = nn.Dropout(c.dropout)
        self.blocks = nn.ModuleList([TransformerBlock(block) for _ in range(c.layers)])
        self.norm_out = nn.LayerNorm(c.dim)

    def init_state(self, count: int) -> LabelEncoderState:
        position = torch.zeros(count, dtype=torch.int64, device=self.embedding.weight.device)
        layers = tuple(block.init_state(count, self.chunk.left) for block in self._layers())
        return LabelEncoderState(position, layers)

    def step(self, token: Tensor, state: LabelEncoderState) -> tuple[Tensor, LabelEncoderState]:
        y, state = self._encoded(token[:, None], state)
        return y[:, 0], state

    def forward(self, tokens: Tensor) -> Tensor:
        return self._encoded(F.pad(tokens, (1, 0), value=BLANK), self.init_state(len(tokens)))[0]

    def _encoded(self, tokens: Tensor, state: LabelEncoderState) -> tuple[Tensor, LabelEncoderState]:
        """(N, n) -> (N, n, D)."""
        x = self.dropout(self.embedding(tokens))
        lens = torch.full_like(state.position, tokens.shape[1])
        context = Context.of(x, lens, state.position, self.chunk, self.positions)
        new = []
        for block, old in zip(self._layers(), state.layers, strict=True):
            x, layer = block(x, context, old)
            new.append(layer)
        return self.norm_out(x), LabelEncoderState(state.position + lens, tuple(new))

    def _layers(self) -> list[TransformerBlock]:
        return list(self.blocks)  # type: ignore[arg-type]
