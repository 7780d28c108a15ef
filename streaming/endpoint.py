"""Endpointing by rules: where the running text is cut into segments.

The three rules are Kaldi's (online2/online-endpoint.h: trailing silence without text, trailing silence after
text, length), which sherpa-onnx numbers 1, 2 and 3 with the same defaults. What is ours: a fourth, which listens
for voice itself, so that it may be quicker and is not fooled by a word that is drawn out; and a cut is only ever a
cut in the text. The acoustic state runs on untouched, so that endpointing cannot change a single token.

Time is counted in the model's output frames since the stream began. An emission is checked at its own frame,
so the cuts do not depend on how much audio a step brings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

__all__ = ["Endpointer", "Reason", "Rules"]

Reason = Literal["silence", "no_text", "length"]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """When a segment ends, in seconds. `None` turns a silence rule off; length always holds, as it bounds
    memory. `voice`: neither a voice nor a token for so long after text; it needs a detector (`streaming.voice`), which
    hears one from a probability of `threshold` on.
    """

    silence: float | None = 1.2
    no_text: float | None = 2.4
    voice: float | None = None
    length: float = 20.0
    threshold: float = 0.5

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("silence", self.silence, 0.1, 60.0),
            ("no_text", self.no_text, 0.1, 60.0),
            ("voice", self.voice, 0.1, 60.0),
            ("length", self.length, 1.0, 120.0),
        ):
            if value is not None and not low <= value <= high:
                raise ValueError(f"endpointing.{name} is {value} s; it must be from {low} to {high} s")
        if not 0.05 <= self.threshold <= 0.95:
            raise ValueError(f"endpointing.threshold is {self.threshold}; it must be from 0.05 to 0.95")


class Endpointer:
    """The rules, applied to one stream. Frames never go back."""

    def __init__(self, rules: Rules, *, frame_seconds: float) -> None:
        self._frame_seconds = frame_seconds
        self._start = 0
        self._last: int | None = None
        self.change(rules)

    def change(self, rules: Rules) -> None:
        """These rules hold from now on, for the running segment, too."""
        self._silence = _frames(rules.silence, self._frame_seconds)
        self._no_text = _frames(rules.no_text, self._frame_seconds)
        self._voice = _frames(rules.voice, self._frame_seconds)
        self._length = _frames(rules.length, self._frame_seconds)

    @property
    def start(self) -> int:
        """The frame at which the running segment began."""
        return self._start

    def emitted(self, frame: int) -> None:
        """A token of the running segment was emitted at `frame`. The length counts from its first one."""
        if self._last is None:
            self._start = frame
        self._last = frame

    @property
    def after(self) -> int | None:
        """The frame after the running segment's last token."""
        return None if self._last is None else self._last + 1

    def check(self, frame: int, *, quiet: int = 0) -> Reason | None:
        """The rule that ends the running segment, if nothing was emitted from its last token up to before
        `frame`. `quiet`: frames of the longest stretch without a voice in between.
        """
        if self._last is None:
            return "no_text" if frame - self._start >= self._no_text else None
        if frame - self._last - 1 >= self._silence or quiet >= self._voice:
            return "silence"
        return "length" if frame - self._start >= self._length else None

    def overlong(self, frame: int) -> bool:
        """The segment is twice as long as it may be: where no place to cut came up, it is cut anywhere."""
        return frame - self._start >= 2 * self._length

    def restart(self, frame: int, *, last: int | None = None) -> None:
        """A new segment begins at `frame`; `last` is the frame of its latest token where some were carried
        over.
        """
        self._start, self._last = frame, last


def _frames(seconds: float | None, frame_seconds: float) -> float:
    return math.inf if seconds is None else math.ceil(round(seconds / frame_seconds, 6))
