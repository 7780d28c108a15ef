"""What searches keep of a transducer's predictor, and of a neural language model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from asr.search.emission import BLANK
from asr.state import map_tree, where

__all__ = ["Predict", "Prediction", "follow"]


@dataclass(frozen=True)
class Prediction:
    """Of N streams or hypotheses: what their tokens so far let expect, (N, J), and the predictor's state."""

    output: Tensor
    state: Any


Predict = Callable[[Tensor, Any], Prediction]
"""The tokens (N,) that have come and the predictor's state -> what follows."""


def follow(known: Prediction, parent: Tensor, token: Tensor, predict: Predict) -> Prediction:
    """What the hypotheses (B, K) that a frame has left let expect; leaves are (B, K, ...).

    parent, token: (B, K) the hypothesis that each was, and what it has said since, or the blank.
    """
    batch, count = token.shape
    own = torch.arange(batch * count, device=token.device).view(batch, count)
    source, new = (parent + own[:, :1]).flatten(), (token != BLANK).flatten()
    flat = map_tree(lambda x: x.flatten(0, 1), known)
    if not torch.equal(source, own.flatten()):
        flat = map_tree(lambda x: x[source], flat)
    if bool(new.any()):
        flat = where(new, predict(token.flatten(), flat.state), flat)
    return map_tree(lambda x: x.unflatten(0, (batch, count)), flat)
