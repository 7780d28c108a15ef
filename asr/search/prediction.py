"""What searches keep of a transducer's predictor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

__all__ = ["Predict", "Prediction"]


@dataclass(frozen=True)
class Prediction:
    """Of N streams or hypotheses: what their tokens so far let expect, (N, J), and the predictor's state."""

    output: Tensor
    state: Any


Predict = Callable[[Tensor, Any], Prediction]
"""The tokens (N,) that have come and the predictor's state -> what follows."""
