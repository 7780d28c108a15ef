"""Where frames stand: the sines and cosines that attention and encoders are told it by (Vaswani et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from asr.encoders.base import Chunk
from asr.errors import ConfigError

__all__ = [
    "LegacyPositions",
    "Places",
    "Positions",
    "RelativePositions",
    "check_chunks",
    "encodings",
    "sinusoids",
]

Positions = Literal["relative", "legacy", "places", "absolute", "none"]
"""What a query knows of where a key stands.

relative: their distance, with Transformer-XL's four terms (Dai et al. 2019): content and position, each with its bias.
legacy: the same, as ESPnet computed it until 2021 (`legacy_rel_pos`), whose shift suits the keys before a query alone,
and whose distances depend on how long the utterance is: see `LegacyPositions`. For whole utterances alone. places: in
the place of the distance, the key's place in its stream, as WeNet has it. absolute: nothing; the encoder adds the place
of each frame to its values (Vaswani et al. 2017). none: nothing.
"""


def check_chunks(chunks: Sequence[Chunk], positions: Positions = "relative") -> None:
    """Raises ConfigError: no encoder, or none with these positions, can be trained for these latencies."""
    if any(chunk.full or chunk.left < 0 for chunk in chunks):
        raise ConfigError("encoder.chunks: each has at least one frame; full context is always there")
    if positions == "legacy" and chunks:
        raise ConfigError(
            "encoder.positions: legacy ones depend on the length of the utterance; to stream, use relative ones, or "
            "leave encoder.chunks empty"
        )


class RelativePositions(nn.Module):
    """Encodings of query - key, sines and cosines interleaved."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("table", torch.empty(0, dim), persistent=False)
        self.table: Tensor

    def forward(self, left: int, group: int, position: Tensor, like: Tensor) -> Tensor:
        """Encodings of key - query = -(left + group) ... group - 1, in the dtype and on the device of `like`."""
        reach = left + group
        if len(self.table) <= 2 * reach or self.table.dtype != like.dtype or self.table.device != like.device:
            with torch.inference_mode(False):  # training may need what decoding left here
                self.table = self._encode(max(reach, len(self.table) // 2)).to(like)
        zero = len(self.table) // 2
        return self.table[zero - reach : zero + group]

    def _encode(self, reach: int) -> Tensor:
        return sinusoids(torch.arange(reach, -reach - 1, -1, dtype=torch.float64), self.dim)


class LegacyPositions(nn.Module):
    """Encodings of 4999, 4998 and so on: ESPnet's table of 5000, which was meant to begin with the utterance's length.

    So keys before a query in an utterance of n frames seem 5000 - n frames further away than they are.
    """

    longest = 5000

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, left: int, group: int, position: Tensor, like: Tensor) -> Tensor:
        """For `like` (B, U, D), whole utterances -> (U, D)."""
        back = torch.arange(1, like.shape[1] + 1, dtype=torch.float64, device=like.device)
        return sinusoids(self.longest - back, self.dim).to(like)


class Places(nn.Module):
    """Encodings of where in its stream each frame stands."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, left: int, group: int, position: Tensor, like: Tensor) -> Tensor:
        """For B streams with `position` (B,) frames before `like` (B, U, D) -> (B, left + U, D)."""
        key = torch.arange(-left, like.shape[1], dtype=torch.float64, device=like.device)
        return sinusoids((position[:, None] + key).clamp(min=0), self.dim).to(like)


def sinusoids(position: Tensor, dim: int) -> Tensor:
    """(...) -> (..., D)."""
    even = torch.arange(0, dim, 2, dtype=torch.float64, device=position.device)
    angle = position[..., None] * 10_000.0 ** -(even / dim)
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)


def encodings(positions: Positions, dim: int) -> RelativePositions | LegacyPositions | Places | None:
    """What the attention of an encoder is told positions by, if it is."""
    match positions:
        case "relative":
            return RelativePositions(dim)
        case "legacy":
            return LegacyPositions(dim)
        case "places":
            return Places(dim)
        case "absolute" | "none":
            return None
