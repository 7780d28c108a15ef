"""What training does to a model block by block: activations computed anew. Evaluation runs blocks as they are."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from asr.state import map_tree

__all__ = ["blocks_of", "checkpoint_activations"]


def blocks_of(encoder: Any) -> list[nn.Module]:
    """The blocks of an encoder in order, those inside a stack of another frame rate one by one."""
    return [block for layer in encoder.layers() for block in getattr(layer, "blocks", [layer])]


def checkpoint_activations(blocks: Iterable[nn.Module]) -> None:
    """Let each `Block` keep what came in alone, and compute the rest once more when its gradient is wanted.

    Chen et al. 2016 (arXiv 1604.06174). What is drawn is drawn the same again, by torch and by Python's `random`, and
    a batch counts once in the statistics of batch norm.
    """
    for block in blocks:
        block.forward = _checkpointed(block, block.forward)


def _checkpointed(block: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*inputs: Any) -> Any:
        if not (block.training and torch.is_grad_enabled()):
            return forward(*inputs)
        drawn = random.getstate()

        def contexts() -> tuple[
            contextlib.AbstractContextManager[Any], contextlib.AbstractContextManager[Any]
        ]:
            return contextlib.nullcontext(), _again(block, drawn)

        y, state = checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts)
        # The next state may be views, for whose sake all that they are cut out of would stay.
        return y, map_tree(Tensor.clone, state)

    return run


@contextlib.contextmanager
def _again(block: nn.Module, drawn: Any) -> Iterator[None]:
    """As it was when the block ran first, and afterwards as it is now."""
    now, buffers = random.getstate(), [(buffer, buffer.clone()) for buffer in block.buffers()]
    random.setstate(drawn)
    try:
        yield
    finally:
        random.setstate(now)
        for buffer, value in buffers:
            buffer.data.copy_(
                value
            )  # by way of `data`: autograd would take it for a change of what it has kept
