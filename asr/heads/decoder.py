"""The Transformer decoder (Vaswani et al. 2017) in ESPnet's form: a norm before each part, one behind the last layer.

B utterances of U frames, K texts of each, S tokens of a text, D dim, V vocabulary. One forward serves training, scoring
and search: it takes the next tokens of each text, all or one, with the keys and values of those before.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr.encoders.feed_forward import FeedForward
from asr.encoders.positions import sinusoids

__all__ = ["Decoder", "Memory", "Past"]


@dataclass(frozen=True)
class Memory:
    """What is attended to. keys, values: of each layer (B, U, D); mask: (B, 1, 1, U), to add to the scores."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    mask: Tensor


@dataclass(frozen=True)
class Past:
    """keys, values: of each layer (B, K, S, D), of the tokens so far."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


class SelfAttention(nn.Module):
    """A token sees itself and those before it."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.project_in = nn.Linear(dim, 3 * dim)  # query, key, value
        self.project_out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, K, S, D), those before twice -> (B, K, S, D), keys and values of all."""
        query, key, value = self.project_in(x).chunk(3, -1)
        before, new = keys.shape[2], x.shape[2]
        keys, values = torch.cat([keys, key], 2), torch.cat([values, value], 2)
        unseen = x.new_full((new, before + new), -torch.inf).triu(before + 1) if new > 1 else None
        query, key, value = (_split(part.flatten(0, 1), self.heads) for part in (query, keys, values))
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=unseen, dropout_p=dropout)
        return self.project_out(y.transpose(1, 2).flatten(2).view_as(x)), keys, values


class CrossAttention(nn.Module):
    """A token sees all frames of its utterance."""

    def __init__(self, dim: int, memory: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.project_query = nn.Linear(dim, dim)
        self.project_memory = nn.Linear(memory, 2 * dim)  # key, value
        self.project_out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """(B, K, S, D), (B, U, D) twice, (B, 1, 1, U) -> (B, K, S, D). All texts of an utterance are its queries."""
        query = self.project_query(x).flatten(1, 2)
        query, keys, values = (_split(part, self.heads) for part in (query, keys, values))
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, dropout_p=dropout)
        projected: Tensor = self.project_out(y.transpose(1, 2).flatten(2).view_as(x))
        return projected

    def weights(self, x: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """What `forward` gives to each frame, the mean over heads: (B, K * S, U)."""
        query = _split(self.project_query(x).flatten(1, 2), self.heads)
        scores = query @ _split(keys, self.heads).transpose(-1, -2) / query.shape[-1] ** 0.5
        return (scores + mask).softmax(-1).mean(1)


def _split(x: Tensor, heads: int) -> Tensor:
    """(N, S, D) -> (N, H, S, D / H)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


class Layer(nn.Module):
    """Vaswani et al. 2017, figure 1, on the right; the norms stand before what they stand behind there."""

    def __init__(
        self,
        dim: int,
        memory: int,
        *,
        heads: int,
        hidden: int,
        dropout: float,
        attention_dropout: float,
        epsilon: float,
    ) -> None:
        super().__init__()
        self.norm_self = nn.LayerNorm(dim, eps=epsilon)
        self.self_attention = SelfAttention(dim, heads, attention_dropout)
        self.norm_cross = nn.LayerNorm(dim, eps=epsilon)
        self.cross_attention = CrossAttention(dim, memory, heads, attention_dropout)
        self.norm_feed_forward = nn.LayerNorm(dim, eps=epsilon)
        self.feed_forward = FeedForward(dim, hidden, activation="relu", dropout=dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, memory: tuple[Tensor, Tensor], mask: Tensor, past: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(B, K, S, D) -> (B, K, S, D), keys and values of all tokens."""
        y, keys, values = self.self_attention(self.norm_self(x), *past)
        x = x + self.dropout(y)
        x = x + self.dropout(self.cross_attention(self.norm_cross(x), *memory, mask))
        return x + self.dropout(self.feed_forward(self.norm_feed_forward(x))), (keys, values)


class Decoder(nn.Module):
    """Embedding and places of the tokens, layers, a linear layer: the next token of each text.

    memory: values of an encoder's frame, D of it or others.
    """

    def __init__(
        self,
        vocabulary: int,
        dim: int,
        memory: int,
        *,
        layers: int,
        heads: int,
        feed_forward_dim: int,
        dropout: float,
        attention_dropout: float,
        norm_epsilon: float,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.embedding = nn.Embedding(vocabulary, dim)
        nn.init.normal_(self.embedding.weight, std=dim**-0.5)  # as large as the places, once it is scaled
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            Layer(
                dim,
                memory,
                heads=heads,
                hidden=feed_forward_dim,
                dropout=dropout,
                attention_dropout=attention_dropout,
                epsilon=norm_epsilon,
            )
            for _ in range(layers)
        )
        self.norm_out = nn.LayerNorm(dim, eps=norm_epsilon)
        self.output = nn.Linear(dim, vocabulary)

    def remember(self, y: Tensor, y_lens: Tensor) -> Memory:
        """Frames (B, U, D), (B,) -> what the layers attend to, computed once for all tokens."""
        hidden = torch.arange(y.shape[1], device=y.device) >= y_lens[:, None]
        least = torch.finfo(y.dtype).min / 2  # finite, so that an utterance without frames yields numbers
        mask = y.new_zeros(hidden.shape).masked_fill(hidden, least)[:, None, None]
        pairs = [layer.cross_attention.project_memory(y).chunk(2, -1) for layer in self.layers]  # type: ignore[union-attr,operator]
        keys, values = zip(*pairs, strict=True)
        return Memory(keys, values, mask)

    def begin(self, batch: int, texts: int) -> Past:
        """Of texts without tokens."""
        empty = self.output.weight.new_zeros(batch, texts, 0, self.dim)
        return Past((empty,) * len(self.layers), (empty,) * len(self.layers))

    def forward(self, tokens: Tensor, memory: Memory, past: Past) -> tuple[Tensor, Past]:
        """The next tokens (B, K, S) of each text -> log-probabilities (B, K, S, V) of what follows; the next past."""
        before, new = past.keys[0].shape[2], tokens.shape[2]
        place = torch.arange(before, before + new, device=tokens.device)
        x = self.embedding(tokens) * self.dim**0.5
        x = self.dropout(x + sinusoids(place, self.dim).to(x))
        keys, values = [], []
        for i, layer in enumerate(self.layers):
            seen = (memory.keys[i], memory.values[i])
            x, (key, value) = layer(x, seen, memory.mask.to(x.dtype), (past.keys[i], past.values[i]))
            keys.append(key)
            values.append(value)
        logits = self.output(self.norm_out(x))
        wide = torch.promote_types(logits.dtype, torch.float32)
        return logits.to(wide).log_softmax(-1), Past(tuple(keys), tuple(values))
