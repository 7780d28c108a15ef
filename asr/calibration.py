"""What a model's tokens say of its words, as measured on a dev set: how sure they are, and when they were said."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["PLAIN", "Calibration"]

_SUREST = 1 - 1e-9  # log-odds beyond are not told apart


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Of one head at one latency (None: offline). `asr calibrate` measures it; the defaults change nothing.

    temperature, bias: a word's confidence c, the geometric mean of its tokens' probabilities, becomes
    sigmoid(logit(c) / temperature + bias). Without bias that is temperature scaling (Guo et al. 2017), with it Platt's.
    start, end: seconds, added to the time of a word's first token, and to the end of the last one's frame.
    """

    head: str
    latency_ms: int | None = None
    temperature: float = 1.0
    bias: float = 0.0
    start: float = 0.0
    end: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature must be more than 0, not {self.temperature}")
        for name in ("bias", "start", "end"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} must be a number, not {getattr(self, name)}")

    def confidence(self, raw: float) -> float:
        """[0, 1] -> [0, 1], never falling where `raw` rises."""
        if self.temperature == 1 and self.bias == 0:
            return raw
        raw = min(max(raw, 1 - _SUREST), _SUREST)
        odds = math.log(raw / (1 - raw)) / self.temperature + self.bias
        return 1 / (1 + math.exp(-odds)) if odds > -700 else 0.0


PLAIN = Calibration(head="")
"""Emissions as they are."""
