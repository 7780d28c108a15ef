"""Subsampling by stages of convolutions, mostly 3 x 3 with stride 2: 100 feature frames a second -> 25 or 12.5.

B streams, T input frames, U = T / factor, F features, D = dim. With two dense stages it is the front of Gulati et al.
2020; with three, depthwise-separable from the second on, that of FastConformer (Rekesh et al. 2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr.encoders.base import Chunk
from asr.errors import ConfigError
from asr.native import strided_convolution

__all__ = ["Factor", "Padding", "Subsampling", "SubsamplingState"]

Factor = Literal[2, 4, 6, 8]
Padding = Literal["same", "causal", "valid"]
"""Where frame j of a stage looks, among that stage's inputs, and the zeros beside the first and last feature.

same: 2j - 1 ... 2j + 1, a zero at either side: NeMo's offline form, and ours, since both frames of a stride are there
when frame j is due. causal: 2j - 2 ... 2j, two zeros and one: NeMo's streaming form. valid: 2j ... 2j + 2, no zeros:
ESPnet's and WeNet's; it sees ahead, and has two stages at least: for a factor of 2 (`conv2d2`) the second has stride 1,
for 6 (`conv2d6`) it is 5 x 5 with stride 3.

An output frame is due when its stride of `factor` input frames is there. The first frame of the stride is all that
"causal" looks at, so there its strides end: the first one began `factor` - 1 frames before the stream, whose first step
brings as many fewer. In such strides, it looks where "same" does.
"""

LEFT: dict[Padding, int] = {"same": 1, "causal": 1, "valid": 0}
STAGES: dict[int, tuple[tuple[int, int], ...]] = {2: ((3, 2),), 4: ((3, 2),) * 2, 8: ((3, 2),) * 3}
"""The kernels and strides of the stages, by factor."""
PIECE = 2048  # input frames
VALID: dict[int, tuple[tuple[int, int], ...]] = {**STAGES, 2: ((3, 2), (3, 1)), 6: ((3, 2), (5, 3))}


@dataclass(frozen=True)
class SubsamplingState:
    """received: (B,) input frames so far; position: (B,) output frames so far; pending: (B, lookahead, F), input that
    waits for its right context; left: for each stage (B, left, F', C), what its next frame still sees.
    """

    received: Tensor
    position: Tensor
    pending: Tensor
    left: tuple[Tensor, ...]


class Stage(nn.Module):
    """A convolution that looks at `kernel` frames and features in every `stride`: (B, T, F, C) -> (B, T', F', C')."""

    def __init__(
        self, inputs: int, channels: int, kernel: int, stride: int, *, padding: Padding, separable: bool
    ) -> None:
        super().__init__()
        self.inputs, self.kernel, self.stride = inputs, kernel, stride
        self.left = LEFT[padding]
        self.round = {"same": 1, "causal": 0, "valid": stride - kernel}[padding]
        self.beside = {"same": (1, 1), "causal": (2, 1), "valid": (0, 0)}[padding]
        beside = (0, self.beside[0])  # behind, a zero more than there may be: `forward` leaves off its column
        groups = inputs if separable else 1
        self.convolution = nn.Conv2d(inputs, channels, kernel, stride=stride, padding=beside, groups=groups)
        self.pointwise = nn.Linear(channels, channels) if separable else nn.Identity()

    def width(self, features: int) -> int:
        return (features + sum(self.beside) - self.kernel) // self.stride + 1

    def lens(self, lens: Tensor) -> Tensor:
        """A frame counts if its middle frame, or without padding all of its frames, are real."""
        return (lens + self.round).clamp(min=0).div(self.stride, rounding_mode="floor")

    def forward(self, x: Tensor, outside: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, F, C), (B, T) frames that are not the stream's, (B, left, F, C) -> (B, T', F', C'), next left."""
        if bool(outside.any()):
            x = x.masked_fill(outside[:, :, None, None], 0.0)
        x = torch.cat([left.to(x.dtype), x], 1)
        left = x[:, x.shape[1] - self.left :].clone()  # a view would keep all of x
        columns, c = self.width(x.shape[2]), self.convolution
        if isinstance(self.pointwise, nn.Linear):
            assert c.bias is not None
            y = strided_convolution(
                x, c.weight, c.bias, stride=self.stride, before=self.beside[0], columns=columns
            )
            return F.relu(self.pointwise(y), inplace=True), left
        y = F.relu(c(x.movedim(3, 1)), inplace=True)  # in place on a view, its gradient would be copied
        return y.movedim(1, 3)[:, :, :columns], left


class Subsampling(nn.Module):
    """(B, T, F) -> (B, T / factor, D). `lookahead`: the input frames beyond a chunk that it needs, or does not."""

    def __init__(
        self,
        features: int,
        dim: int,
        *,
        channels: int,
        factor: Factor = 4,
        padding: Padding = "same",
        separable: bool = False,
    ) -> None:
        super().__init__()
        self.features, self.factor = features, factor
        shapes = (VALID if padding == "valid" else STAGES).get(factor)
        if shapes is None:
            raise ConfigError(f"encoder.subsampling: {factor} needs encoder.subsampling_padding: valid")
        stages: list[Stage] = []
        ahead, stride = 0, 1
        for kernel, step in shapes:
            inputs, grouped = (channels, separable) if stages else (1, False)
            stages.append(Stage(inputs, channels, kernel, step, padding=padding, separable=grouped))
            ahead += (kernel - step) * stride
            stride *= step
        self.lookahead = {"same": 0, "causal": 1 - factor, "valid": ahead}[padding]
        self.stages = nn.ModuleList(stages)
        self.widths = [features]
        for stage in stages:
            self.widths.append(stage.width(self.widths[-1]))
        self.project = nn.Linear(channels * self.widths[-1], dim)

    def frames(self, inputs: int) -> int:
        """Output frames of a whole utterance of so many input frames."""
        lens = torch.tensor(inputs - min(0, self.lookahead))
        for stage in self._stages():
            lens = stage.lens(lens)
        return int(lens)

    def init_state(self, batch: int) -> SubsamplingState:
        zeros = self.project.weight.new_zeros
        zero = torch.zeros(batch, dtype=torch.int64, device=self.project.weight.device)
        left = tuple(
            zeros(batch, stage.left, width, stage.inputs)
            for stage, width in zip(self._stages(), self.widths[:-1], strict=True)
        )
        return SubsamplingState(zero, zero, zeros(batch, max(0, self.lookahead), self.features), left)

    def whole(self, x: Tensor, chunk: Chunk) -> Tensor:
        """A whole utterance (B, T, F), with zeros up to whole chunks and their look-ahead."""
        size = self.factor * (1 if chunk.full else chunk.frames)
        chunks = max(1, -(-max(1, self.frames(x.shape[1])) * self.factor // size))
        return F.pad(x, (0, 0, 0, chunks * size + self.lookahead - x.shape[1]))

    def forward(
        self, x: Tensor, x_lens: Tensor, state: SubsamplingState, chunk: Chunk
    ) -> tuple[Tensor, Tensor, SubsamplingState]:
        """(B, T, F), (B,) -> (B, U, D), (B,), the next state.

        Long recordings are taken piece by piece unless they are trained on: in the first stage a frame is thousands of
        values. Raises ValueError if x is not whole chunks (and `lookahead` at the start).
        """
        size = self.factor * (1 if chunk.full else chunk.frames)
        several = -(-PIECE // size) * size
        whole = torch.is_grad_enabled() or x.shape[1] <= several + max(0, self.lookahead)
        if whole or (self.lookahead and not bool(((state.received == 0) & (x_lens > 0)).all())):
            return self._step(x, x_lens, state, chunk)
        outputs, total, at = [], torch.zeros_like(x_lens), 0
        while at < x.shape[1]:
            piece = x[:, at : at + several + (self.lookahead if at == 0 else 0)]
            y, lens, state = self._step(piece, (x_lens - at).clamp(0, piece.shape[1]), state, chunk)
            outputs.append(y)
            total, at = total + lens, at + piece.shape[1]
        return torch.cat(outputs, 1), total, state

    def _step(
        self, x: Tensor, x_lens: Tensor, state: SubsamplingState, chunk: Chunk
    ) -> tuple[Tensor, Tensor, SubsamplingState]:
        x = self._window(x, state)
        size = self.factor * (1 if chunk.full else chunk.frames)
        frames = x.shape[1] - max(0, self.lookahead)
        if frames % size or frames < 1:
            raise ValueError(f"{x.shape[1]} input frames are not {self.lookahead} and whole chunks of {size}")
        received = state.received + x_lens
        begin = -min(0, self.lookahead) - self.factor * state.position
        lens = (received + begin).clamp(min=0)
        pending = x[:, x.shape[1] - max(0, self.lookahead) :]
        y, left = x[..., None], []
        for stage, old in zip(self._stages(), state.left, strict=True):
            frame = torch.arange(y.shape[1], device=x.device)
            y, new = stage(y, (frame < begin[:, None]) | (frame >= lens[:, None]), old)
            begin, lens = begin.div(stage.stride, rounding_mode="floor"), stage.lens(lens)
            left.append(new)
        y = self.project(y.transpose(2, 3).flatten(2))
        lens = lens.clamp(max=y.shape[1])
        return y, lens, SubsamplingState(received, state.position + y.shape[1], pending, tuple(left))

    def _stages(self) -> list[Any]:
        return list(self.stages)

    def _window(self, x: Tensor, state: SubsamplingState) -> Tensor:
        """Whole strides and their look-ahead. A stream that begins brings that; for one that goes on it waited."""
        if self.lookahead == 0:
            return x
        begins = state.received == 0
        new = F.pad(x, (0, 0, max(0, -self.lookahead), 0))
        old = torch.cat([state.pending, x], 1)
        if bool(begins.all()):
            return new
        if not bool(begins.any()):
            return old
        return torch.where(begins[:, None, None], new[:, : x.shape[1]], old[:, : x.shape[1]])
