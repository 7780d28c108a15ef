"""I3D: input-dependent dynamic depth (Peng et al. 2023, arXiv 2303.07624), for encoders made of blocks.

A gate before each block looks at the mean of its input and decides whether the block runs. While training, gates are
drawn (Gumbel-softmax: hard forward, soft backward), all blocks run, and the expected depth is a loss; afterwards blocks
whose gate stays below a threshold are really skipped, and the threshold trades accuracy for time.

It departs from the paper in two points. A gate opens a whole block, where the paper's open its attention and its
feed-forward apart: a Conformer's block has four modules, and its last norm. And it streams, with local gates: each
chunk has its own decision, from the mean of all frames up to the chunk's end, old ones counting less, so that it is
known in time. A block does not see the chunks that it skips at all: its caches hold the frames that it ran on, and to
it those before a gap and after it are neighbours. While training, though, it saw the chunks that it would have skipped.

B streams, U frames of this step in n chunks of c, D = dim, N blocks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from asr.encoders.attention import Context
from asr.encoders.base import FULL_CONTEXT, Chunk
from asr.encoders.block_encoder import BlockEncoder, BlockEncoderState
from asr.encoders.positions import LegacyPositions, Places, RelativePositions
from asr.encoders.subsampling import Subsampling
from asr.errors import ConfigError
from asr.state import map_tree

__all__ = ["DepthConfig", "DynamicDepth", "GatedEncoder", "Gates", "gate_probabilities"]

MEMORY = 250  # frames after which what a gate has seen counts 1 / e of what it did
OPEN = 3.0  # bias of a new gate: nearly all blocks run at first


@dataclass(frozen=True, kw_only=True)
class DepthConfig:
    """`depth: {}` in an encoder's configuration turns dynamic depth on.

    gates: local, each block's from its own input; global, all from the first block's, which needs whole utterances, so
    for offline models only. penalty: the loss that running all blocks costs, a frame. threshold: the probability from
    which on a block runs; 0 runs all.
    """

    gates: Literal["local", "global"] = "local"
    hidden: int = 32
    penalty: float = 0.1
    temperature: float = 1.0
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ConfigError(f"encoder.depth.threshold: {self.threshold} is not a probability, from 0 to 1")
        if self.temperature <= 0:
            raise ConfigError(f"encoder.depth.temperature: {self.temperature} must be more than 0")

    def check(self, chunks: Sequence[Chunk]) -> None:
        """Raises ConfigError: an encoder with these latencies cannot have these gates."""
        if self.gates == "global" and chunks:
            raise ConfigError(
                "encoder.depth.gates: global gates need the whole utterance; to stream, use local ones, or leave "
                "encoder.chunks empty"
            )


@dataclass(frozen=True)
class Gates:
    """Of one step. probabilities, open: (B, n, N), that a block runs on a chunk and whether it did, 0 or 1; frames:
    (B, n), the real ones of each chunk."""

    probabilities: Tensor
    open: Tensor
    frames: Tensor

    def depth(self) -> Tensor:
        """(B,): the share of the blocks that ran, times the frames on which they might have."""
        return (self.open.mean(2) * self.frames).sum(1)

    def by_utterance(self) -> Tensor:
        """(B, N): the mean probabilities over each utterance's chunks."""
        return (self.probabilities * self.frames[..., None]).sum(1) / self.frames.sum(1)[:, None]


@dataclass(frozen=True)
class GatedState:
    """total: (B, D), frames: (B,), the sum and the number of the frames so far, old ones counting less; position: (B,),
    the frames on which the block ran; block: its own state.
    """

    total: Tensor
    frames: Tensor
    position: Tensor
    block: Any


class Gate(nn.Module):
    """Two layers that predict from a mean frame (..., D) the logits of gates (..., gates), in float32 at least."""

    def __init__(self, dim: int, hidden: int, gates: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(dim, hidden)
        self.output = nn.Linear(hidden, gates)
        nn.init.constant_(self.output.bias, OPEN)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.output(torch.relu(self.hidden(x)))
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


class DynamicDepth(nn.Module):
    """The gates of N blocks. `threshold` may be set at any time; `last` are the gates of the last step."""

    def __init__(self, config: DepthConfig, dim: int, layers: int) -> None:
        super().__init__()
        self.config, self.dim = config, dim
        self.threshold = config.threshold
        self.last: Gates | None = None
        shared = config.gates == "global"
        self.gates = nn.ModuleList(
            Gate(dim, config.hidden, layers if shared else 1) for _ in range(1 if shared else layers)
        )

    def init_state(self, batch: int, block: Any) -> GatedState:
        weight = next(self.parameters())
        zero = torch.zeros(batch, dtype=torch.int64, device=weight.device)
        return GatedState(weight.new_zeros(batch, self.dim), weight.new_zeros(batch), zero, block)

    def run(
        self,
        blocks: Sequence[Any],
        x: Tensor,
        context: Context,
        states: Sequence[GatedState],
        positions: LegacyPositions | Places | RelativePositions | None,
    ) -> tuple[Tensor, tuple[GatedState, ...]]:
        """Each block on the chunks for which its gate is open: (B, U, D) -> (B, U, D), the next states."""
        frames = (~context.padding[..., 0]).unflatten(1, (-1, context.chunk)).sum(2)
        shared: Tensor | None = None
        logits, opened, new = [], [], []
        contexts = _Contexts(context, positions)
        for i, (block, state) in enumerate(zip(blocks, states, strict=True)):
            if shared is None:
                mean, state = self._mean(x, frames, context, state)
                logit = self.gates[i](mean)
                shared = logit if self.config.gates == "global" else None
            if shared is not None:
                logit = shared[..., i : i + 1]
            logits.append(logit[..., 0])
            if self.training:
                gate = self._draw(logits[-1])
                y, inner = block(x, context, state.block)
                x = torch.lerp(x, y, gate.to(x.dtype).repeat_interleave(context.chunk, 1)[..., None])
                state = replace(state, position=state.position + x.shape[1], block=inner)
            else:
                gate = (logits[-1].sigmoid() >= self.threshold) & (frames > 0)
                x, state = _run_open(block, x, gate, frames, contexts, state)
            opened.append(gate.to(logit.dtype))
            new.append(state)
        self.last = Gates(torch.stack(logits, 2).sigmoid(), torch.stack(opened, 2), frames)
        return x, tuple(new)

    def _mean(
        self, x: Tensor, frames: Tensor, context: Context, state: GatedState
    ) -> tuple[Tensor, GatedState]:
        """(B, U, D), (B, n) -> (B, n, D), the mean of all frames up to each chunk's end, and the state with its sum."""
        sums = x.masked_fill(context.padding, 0.0).unflatten(1, (-1, context.chunk)).sum(2)
        keep = math.exp(-context.chunk / MEMORY)
        total, count, means = state.total, state.frames, []
        for one, many in zip(sums.unbind(1), frames.unbind(1), strict=True):
            total, count = keep * total + one, keep * count + many
            means.append(total / count.clamp(min=1)[:, None])
        return torch.stack(means, 1), replace(state, total=total, frames=count)

    def _draw(self, logits: Tensor) -> Tensor:
        """(B, n) -> (B, n), 0 or 1 with the gradient of the soft gate; one draw for all chunks of an utterance."""
        uniform = torch.rand_like(logits[:, :1]).clamp(1e-6, 1 - 1e-6)
        soft = ((logits + uniform.logit()) / self.config.temperature).sigmoid()
        return (soft >= 0.5).to(soft.dtype) + soft - soft.detach()


@dataclass(frozen=True)
class _Contexts:
    """The contexts of one step's blocks: those that run on as many chunks after as many frames share one."""

    whole: Context
    positions: LegacyPositions | Places | RelativePositions | None
    made: dict[Any, Context] = field(default_factory=dict)

    def of(self, x: Tensor, lens: Tensor, position: Tensor) -> Context:
        key = (x.shape[1], *lens.tolist(), *position.tolist())
        if key not in self.made:
            chunk = Chunk(self.whole.chunk, self.whole.left)
            self.made[key] = Context.of(x, lens, position, chunk, self.positions)
        return self.made[key]


def _run_open(
    block: Any, x: Tensor, gate: Tensor, frames: Tensor, contexts: _Contexts, state: GatedState
) -> tuple[Tensor, GatedState]:
    """Streams with as many open chunks (B, n) each run the block together, on these chunks alone."""
    if bool(gate.all()):
        y, inner = block(x, contexts.of(x, frames.sum(1), state.position), state.block)
        return y, replace(state, position=state.position + x.shape[1], block=inner)
    size = contexts.whole.chunk
    chunks, inner = x.unflatten(1, (-1, size)), state.block
    counts = gate.sum(1)
    for count in sorted(set(counts.tolist()) - {0}):
        rows = (counts == count).nonzero()[:, 0]
        at = (rows[:, None], gate[rows].nonzero()[:, 1].view(-1, count))
        some = chunks[at].flatten(1, 2)
        seen = contexts.of(some, frames[at].sum(1), state.position[rows])
        old = map_tree(lambda leaf, rows=rows: leaf[rows], state.block)
        y, after = block(some, seen, old)
        chunks = chunks.index_put(at, y.unflatten(1, (count, -1)).to(x.dtype))
        inner = map_tree(
            lambda all_, new, rows=rows: all_.index_copy(0, rows, new.to(all_.dtype)), inner, after
        )
    return chunks.flatten(1, 2), replace(state, position=state.position + size * counts, block=inner)


class GatedEncoder(BlockEncoder):
    """A `BlockEncoder` whose blocks run as their gates say; without `depth`, all of them."""

    def __init__(
        self, front: Subsampling, blocks: Iterable[nn.Module], *, depth: DepthConfig | None, **options: Any
    ) -> None:
        super().__init__(front, blocks, **options)
        self.depth = None if depth is None else DynamicDepth(depth, self.dim, len(self.blocks))

    def init_state(self, batch: int, chunk: Chunk = FULL_CONTEXT) -> BlockEncoderState:
        state = super().init_state(batch, chunk)
        if self.depth is None:
            return state
        return replace(state, blocks=tuple(self.depth.init_state(batch, block) for block in state.blocks))

    def run(self, x: Tensor, context: Context, states: tuple[Any, ...]) -> tuple[Tensor, tuple[Any, ...]]:
        if self.depth is None:
            return super().run(x, context, states)
        return self.depth.run(self.layers(), x, context, states, self.positions)

    def auxiliary_losses(self) -> dict[str, Tensor]:
        """What the last step adds to the losses of the heads, (B,) by name, summed over frames as theirs are."""
        if self.depth is None or self.depth.last is None:
            return {}
        gates, self.depth.last = self.depth.last, None  # or its graph would live on
        return {"depth": self.depth.config.penalty * gates.depth()}


@torch.inference_mode()
def gate_probabilities(
    encoder: GatedEncoder, x: Tensor, x_lens: Tensor, chunk: Chunk = FULL_CONTEXT
) -> Gates:
    """The gates of whole utterances (B, T, F), (B,), as they are in use. Raises ValueError: the encoder has none."""
    if encoder.depth is None:
        raise ValueError("the encoder has no gates: its configuration lacks `depth`")
    training = encoder.training
    encoder.eval()(x, x_lens, chunk)
    encoder.train(training)
    assert encoder.depth.last is not None
    return encoder.depth.last
