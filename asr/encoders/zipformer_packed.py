"""A Zipformer block of inference as one call of a kernel: `ZipformerBlock.forward` uses it where `pack` made it."""

from __future__ import annotations

import ctypes
from ctypes import c_double, c_int64, c_void_p
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from asr.native import available
from asr.native.library import address, library, plain
from asr.native.linear import LinearWeights, pointers
from asr.native.memory import Arena

if TYPE_CHECKING:
    from asr.encoders.zipformer import ZipformerBlock
    from asr.encoders.zipformer_modules import Context

__all__ = ["PackedBlock"]

CACHES = ("keys", "nonlinear", "values1", "values2", "past1", "past2")


class _Block(ctypes.Structure):
    _fields_ = (
        ("project", LinearWeights),
        ("feed_in", LinearWeights * 3),
        ("feed_out", LinearWeights * 3),
        *((name, LinearWeights) for name in ("nonlinear_in", "nonlinear_out")),
        *(
            (name, LinearWeights * 2)
            for name in ("attention_in", "attention_out", "convolution_in", "convolution_out")
        ),
        *((name, c_void_p * 2) for name in ("past_weight", "past_bias", "weight", "bias")),
        *((name, c_void_p) for name in ("middle", "bypass", "norm_bias")),
        ("norm_scale", c_double),
        *((name, c_int64) for name in ("dim", "heads", "size", "position", "value", "hidden", "kernel")),
    )


class _Step(ctypes.Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("x", "table")),
        ("edge", c_void_p * 2),
        ("caches", c_void_p * 6),
        ("y", c_void_p),
        ("next_caches", c_void_p * 6),
        *((name, c_void_p) for name in ("work", "bytes", "begin", "end")),
        *((name, c_int64) for name in ("batch", "frames", "chunk", "left", "threads")),
    )


class PackedBlock:
    """The weights of a causal block, copied: later changes of the block do not reach it.

    With `int8`, those of its linear layers are bytes, and so is what they are multiplied by: see `LinearWeights.of`.
    """

    def __init__(self, block: ZipformerBlock, *, int8: bool = False) -> None:
        b: Any = block
        layers = [part for part in b.modules() if isinstance(part, nn.Linear)]
        room = sum(map(LinearWeights.room, layers)) + Arena.room(*(p.shape for p in b.parameters()))
        self._arena = Arena(room)
        self._tables: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor]] = {}
        self._project_positions = b.weights.project_positions.weight.detach()
        self._edges = [c.edge_scale.detach() for c in (b.convolution1, b.convolution2)]
        self._kernel = b.convolution1.kernel
        feeds, attentions = (b.feed_forward1, b.feed_forward2, b.feed_forward3), (b.attention1, b.attention2)
        convolutions, heads = (b.convolution1, b.convolution2), b.weights.heads
        linear, tensor = (lambda layer: LinearWeights.of(layer, self._arena, int8=int8)), self._kept
        taps = [
            pointers([tensor(x) for x in parts])
            for parts in (
                [c.past.weight[:, 0].t() for c in convolutions], [c.past.bias for c in convolutions],
                [c.chunkwise.weight[:, 0].t() for c in convolutions], [c.chunkwise.bias for c in convolutions],
            )
        ]  # fmt: skip
        self._block = _Block(
            linear(b.weights.project),
            *(
                (LinearWeights * 3)(*(linear(getattr(part, name)) for part in feeds))
                for name in ("project_in", "project_out")
            ),
            linear(b.nonlinear_attention.project_in), linear(b.nonlinear_attention.project_out),
            *(
                (LinearWeights * 2)(*(linear(getattr(part, name)) for part in parts))
                for parts in (attentions, convolutions) for name in ("project_in", "project_out")
            ),
            *taps,
            *(address(tensor(x)) for x in (b.bypass_middle.scale, b.bypass.scale, b.norm.bias)),
            float(b.norm.log_scale.detach().exp()), b.convolution1.dim, heads, b.weights.sizes[0] // heads,
            b.weights.sizes[2] // heads, b.attention1.value_dim // heads, b.nonlinear_attention.hidden, self._kernel,
        )  # fmt: skip

    @staticmethod
    def fits(block: ZipformerBlock) -> bool:
        """Whether there is a kernel for it."""
        parts: Any = block
        return bool(available() and parts.convolution1.causal and plain(*block.parameters()))

    def __call__(self, x: Tensor, context: Context, caches: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """As ZipformerBlock.forward, with the caches in the order of `CACHES`."""
        seen, (batch, frames, _) = context.seen, x.shape
        x, begin, end = x.contiguous(), seen.begin.contiguous(), seen.end.contiguous()
        caches = [cache.contiguous() for cache in caches]
        y, following = torch.empty_like(x), [torch.empty_like(cache) for cache in caches]
        table, *edges = self._for_chunk(context)
        step = _Step(
            address(x), address(table), pointers(edges), pointers(caches), address(y), pointers(following), None, None,
            address(begin), address(end), batch, frames, seen.chunk, seen.left, torch.get_num_threads(),
        )  # fmt: skip
        block, call = ctypes.byref(self._block), ctypes.byref(step)
        work = x.new_empty(library().rill_zipformer_block_work(block, call))
        step.work = address(work)
        library().rill_zipformer_block(block, call)
        return y, following

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """A copy of a model is not packed: it may be for training."""

    def __reduce__(self) -> Any:
        return type(None), ()

    def _for_chunk(self, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """What depends on the chunk only: the table of positions and both convolutions' edges."""
        chunk, kernel = context.seen.chunk, self._kernel
        key = chunk, context.seen.left
        if key not in self._tables:
            table = self._project_positions @ context.positions.t()
            edges = []
            for scale in self._edges:
                edge = torch.ones(chunk, scale.shape[1])
                some = min(chunk, kernel)
                edge[:some] += scale[0, :, :some].t()
                edge[chunk - some :] += scale[1, :, kernel - some :].t()
                edges.append(edge)
            self._tables[key] = (table.contiguous(), edges[0], edges[1])
        return self._tables[key]

    def _kept(self, x: Tensor) -> Tensor:
        return self._arena.keep(x.detach())
