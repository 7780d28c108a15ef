"""Branchformer (Peng et al. 2022, arXiv 2207.02971), offline and streaming in one class.

A layer runs attention, which sees far, and cgMLP, which sees what is near, on the same frames, and merges the two. It
departs from the paper so that it can stream: attention sees a chunk and what stands left of it; the gate's convolution
sees its right context up to the chunk's end, or none (`convolution: causal`). The learned average, too, departs: the
paper pools over the whole utterance to weigh the branches; here, each chunk pools over what its attention sees. With
full context that is the whole utterance, and the published form to the digit. Branch dropout, which the paper has with
the averages, leaves half of the input empty where branches are concatenated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from asr.encoders.attention import Context
from asr.encoders.base import FULL_CONTEXT, Chunk
from asr.encoders.block_encoder import BlockEncoder
from asr.encoders.branches import Branches, BranchesConfig, BranchesState
from asr.encoders.dropout import Dropout
from asr.errors import ConfigError
from asr.state import zeros

__all__ = ["Branchformer", "BranchformerBlock", "BranchformerConfig"]

SIZES: dict[str, dict[str, int]] = {
    "m": {"dim": 256, "layers": 24, "heads": 4, "cgmlp_dim": 2048},
    "l": {"dim": 512, "layers": 18, "heads": 8, "cgmlp_dim": 3072},
}


@dataclass(frozen=True, kw_only=True)
class BranchformerConfig(BranchesConfig):
    """A named `size`, of which any field may be given another value; the other fields are `BranchesConfig`'s.

    m and l are what the authors published for AISHELL (45.4 M with an attention decoder, of which 32.7 M are the
    encoder's) and LibriSpeech (116.2 M in the paper, 116.9 M in ESPnet; the encoder has 84.0 M). Our subsampling pads,
    which makes its last layer larger by `dim` squared.

    merge: "concatenation" and a projection; "learned" average, whose weights depend on the utterance; or "fixed"
    average, with `cgmlp_weights`, one for all layers or one each. A layer whose weight is 0 or 1 has one branch only.
    """

    kind: Literal["branchformer"] = "branchformer"
    size: Literal["m", "l"] = "m"
    merge: Literal["concatenation", "learned", "fixed"] = "concatenation"
    cgmlp_weights: tuple[float, ...] = (0.5,)

    def __post_init__(self) -> None:
        self.fill(SIZES[self.size])
        if len(self.cgmlp_weights) not in (1, self.layers):
            raise ConfigError(
                f"encoder.cgmlp_weights: {len(self.cgmlp_weights)} for {self.layers} layers; give one, or one each"
            )
        if any(not 0 <= weight <= 1 for weight in self.cgmlp_weights):
            raise ConfigError("encoder.cgmlp_weights: each is from 0, attention alone, to 1, cgMLP alone")

    def weight(self, layer: int) -> float:
        """What a fixed average gives to the cgMLP of a layer."""
        return self.cgmlp_weights[layer % len(self.cgmlp_weights)]


class Concatenation(nn.Module):
    """Both branches beside each other, projected: (B, U, D) twice -> (B, U, D)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(2 * dim, dim)

    def init_state(self, batch: int, left: int) -> tuple[()]:
        return ()

    def forward(
        self, attended: Tensor, local: Tensor, dropped: Tensor, context: Context, state: tuple[()]
    ) -> tuple[Tensor, tuple[()]]:
        return self.project(torch.cat([attended, local], -1)), state


class FixedAverage(nn.Module):
    """A weighted average, projected: (B, U, D) twice -> (B, U, D)."""

    def __init__(self, dim: int, weight: float) -> None:
        super().__init__()
        self.weight = weight
        self.project = nn.Linear(dim, dim)

    def init_state(self, batch: int, left: int) -> tuple[()]:
        return ()

    def forward(
        self, attended: Tensor, local: Tensor, dropped: Tensor, context: Context, state: tuple[()]
    ) -> tuple[Tensor, tuple[()]]:
        weight = dropped.to(local.dtype).clamp(min=self.weight)
        return self.project((1 - weight) * attended + weight * local), state


@dataclass(frozen=True)
class PoolState:
    """pooled: (B, L, 4) score and vote of both branches for the frames that the next chunk still sees."""

    pooled: Tensor


class BranchWeights(nn.Module):
    """How much each branch counts in a chunk: the paper's attention pooling, over what the chunk's attention sees.

    A frame has a score, by which it is pooled, and a vote for its branch. To pool the votes is to pool the frames and
    let the mean one vote, as the paper writes it.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = dim**-0.5
        self.attention = nn.Linear(dim, 2)  # score, vote
        self.cgmlp = nn.Linear(dim, 2)

    def init_state(self, batch: int, left: int) -> PoolState:
        return PoolState(zeros(self.cgmlp.weight, batch, left, 4))

    def forward(
        self, attended: Tensor, local: Tensor, dropped: Tensor, context: Context, state: PoolState
    ) -> tuple[Tensor, PoolState]:
        """(B, U, D) twice -> (B, U, 2), attention's weight and cgMLP's, equal in a chunk; the next state."""
        new = torch.cat([self.attention(attended), self.cgmlp(local)], -1)
        seen, pooled = context.remember(state.pooled, new)
        stale = context.stale
        if stale is None:
            stale = context.padding.new_zeros(len(local), context.left, 1)
        hidden = torch.cat([stale, context.padding], 1)
        window, hop = context.left + context.chunk, context.chunk
        score, vote = _windows(seen, window, hop).unflatten(2, (2, 2)).unbind(3)  # (B, chunks, 2, window)
        lowest = torch.finfo(score.dtype).min / 2  # finite, so that a chunk of padding yields a number
        score = (score * self.scale).masked_fill(_windows(hidden, window, hop), lowest)
        votes = (score.softmax(-1) * vote).sum(-1)
        weights = votes.softmax(-1).repeat_interleave(hop, 1)
        alone = torch.tensor([0.0, 1.0], dtype=weights.dtype, device=weights.device)
        return torch.where(dropped, alone, weights), PoolState(pooled)


def _windows(x: Tensor, window: int, hop: int) -> Tensor:
    """(B, L + U, n) -> what each chunk sees, (B, chunks, n, window). In a step of one chunk that is all, and ONNX has
    only such steps, for it knows no unfold of a length that it does not know.
    """
    return x.transpose(1, 2)[:, None] if x.shape[1] == window else x.unfold(1, window, hop)


class LearnedAverage(nn.Module):
    """A weighted average whose weights depend on what is said, projected: (B, U, D) twice -> (B, U, D)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weigh = BranchWeights(dim)
        self.project = nn.Linear(dim, dim)

    def init_state(self, batch: int, left: int) -> PoolState:
        return self.weigh.init_state(batch, left)

    def forward(
        self, attended: Tensor, local: Tensor, dropped: Tensor, context: Context, state: PoolState
    ) -> tuple[Tensor, PoolState]:
        weights, state = self.weigh(attended, local, dropped, context, state)
        return self.project(weights[..., :1] * attended + weights[..., 1:] * local), state


@dataclass(frozen=True)
class BranchformerBlockState:
    branches: BranchesState
    merge: Any


class BranchformerBlock(nn.Module):
    """Peng et al. 2022, figure 2: attention beside cgMLP, merge, norm."""

    def __init__(self, config: BranchformerConfig, layer: int) -> None:
        super().__init__()
        c, weight = config, config.weight(layer)
        fixed = c.merge == "fixed"
        self.branches = Branches(c, attention=not fixed or weight < 1, cgmlp=not fixed or weight > 0)
        self.merge: Concatenation | LearnedAverage | FixedAverage
        match c.merge:
            case "concatenation":
                self.merge = Concatenation(c.dim)
            case "learned":
                self.merge = LearnedAverage(c.dim)
            case "fixed":
                self.merge = FixedAverage(c.dim, weight)
        self.dropout = Dropout(c.dropout)
        self.norm_out = c.norm()

    def init_state(self, batch: int, left: int) -> BranchformerBlockState:
        return BranchformerBlockState(
            self.branches.init_state(batch, left), self.merge.init_state(batch, left)
        )

    def forward(
        self, x: Tensor, context: Context, state: BranchformerBlockState
    ) -> tuple[Tensor, BranchformerBlockState]:
        """(B, U, D) -> (B, U, D), the next state."""
        attended, local, dropped, branches = self.branches(x, context, state.branches)
        y, merge = self.merge(attended, local, dropped, context, state.merge)
        return self.norm_out(x + self.dropout(y)), BranchformerBlockState(branches, merge)


class Branchformer(BlockEncoder):
    """(B, T, F) at 100 Hz -> (B, U, D) at 25 Hz, or 12.5. See `Encoder` for the contract."""

    def __init__(self, config: BranchformerConfig, features: int = 80) -> None:
        c = config
        super().__init__(
            c.front(features),
            (BranchformerBlock(c, layer) for layer in range(c.layers)),
            dim=c.dim,
            chunks=c.chunks,
            positions=c.positions,
            dropout=c.dropout,
            scale_input=c.scale_input,
            norm_out=c.norm() if c.norm_out else None,
        )
        self.config = config

    @torch.inference_mode()
    def merge_weights(self, x: Tensor, x_lens: Tensor, chunk: Chunk = FULL_CONTEXT) -> Tensor:
        """What each layer's learned average gives to attention and to cgMLP: (B, T, F), (B,) -> (B, layers, 2).

        In chunks, where they change, it is their mean. `asr.training.pictures.merge_weights` draws them.
        Raises ConfigError for another merge than the learned average, which has nothing to tell.
        """
        if self.config.merge != "learned":
            raise ConfigError(f"encoder.merge: {self.config.merge} learns no weights; learned does")
        found: list[Tensor] = []
        hooks = [
            block.merge.weigh.register_forward_hook(lambda _module, _given, result: found.append(result[0]))
            for block in self.layers()
        ]
        try:
            _, lens = self(x, x_lens, chunk)
        finally:
            for hook in hooks:
                hook.remove()
        weights = torch.stack(found, 1)  # (B, layers, U, 2)
        real = (torch.arange(weights.shape[2], device=lens.device) < lens[:, None])[:, None, :, None]
        return (weights * real).sum(2) / real.sum(2).clamp(min=1)
