"""What a model's tokens say of its words, as measured on a dev set: how sure they are, and when they were said."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["PLAIN", "Calibration", "Heard"]

_SUREST = 1 - 1e-9  # log-odds beyond are not told apart


class Heard(NamedTuple):
    """What a word's tokens say of it: the geometric mean of their probabilities, how many they are, and over how many
    output frames they stretch.
    """

    probability: float
    tokens: int = 1
    frames: int = 1


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Of one head at one latency (None: offline). `asr calibrate` measures it; the defaults change nothing.

    temperature, bias, tokens, pace: of a word whose n tokens have the geometric mean p of probabilities, over t frames,
    the confidence is sigmoid(logit(p) / temperature + bias + tokens * log(n) + pace * log(t / n)). The first alone is
    temperature scaling (Guo et al. 2017), with bias it is Platt's; in a word of many tokens more may be wrong, and one
    that is drawn out is one that the model is not used to.
    start, end: seconds, added to the time of a word's first token, and to the end of the last one's frame.
    """

    head: str
    latency_ms: int | None = None
    temperature: float = 1.0
    bias: float = 0.0
    tokens: float = 0.0
    pace: float = 0.0
    start: float = 0.0
    end: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature must be more than 0, not {self.temperature}")
        for name in ("bias", "tokens", "pace", "start", "end"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} must be a number, not {getattr(self, name)}")

    def confidence(self, heard: Heard) -> float:
        """From 0 to 1, never falling where the probability rises."""
        if (self.temperature, self.bias, self.tokens, self.pace) == (1, 0, 0, 0):
            return heard.probability
        p = min(max(heard.probability, 1 - _SUREST), _SUREST)
        odds = math.log(p / (1 - p)) / self.temperature + self.bias
        odds += self.tokens * math.log(heard.tokens) + self.pace * math.log(heard.frames / heard.tokens)
        return 1 / (1 + math.exp(-odds)) if odds > -700 else 0.0


PLAIN = Calibration(head="")
"""Emissions as they are."""
