"""Phrases to be recognised more readily (`asr.search.phrases`), as each protocol writes them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from streaming.protocols import parse_object

__all__ = ["LONGEST", "MOST", "RULE", "good", "listed", "mapped", "prompted", "tidy", "weighted"]

MOST, LONGEST = 2000, 200
"""Phrases of a session, and characters of a phrase."""
RULE = f"a list of up to {MOST} texts of up to {LONGEST} characters"
_PROMPT_WORDS = 5


def good(phrases: Any) -> bool:
    """A list of texts within the limits."""
    return (
        isinstance(phrases, list | tuple)
        and len(phrases) <= MOST
        and all(isinstance(x, str) and len(x) <= LONGEST for x in phrases)
    )


def tidy(phrases: Sequence[str]) -> tuple[str, ...]:
    """Those of a session, which are `good`: each once, without spaces around it."""
    return tuple(dict.fromkeys(x.strip() for x in phrases if x.strip()))


def listed(text: str, *, between: str = ",") -> list[str]:
    """WhisperLive's `A,B`."""
    return [x.strip() for x in text.split(between) if x.strip()]


def weighted(text: str) -> str:
    """Deepgram's `word:2.5`, without the weight; empty for a weight below 0, which is to suppress the word."""
    word, sign, weight = text.rpartition(":")
    if not sign or not re.fullmatch(r"-?\d{1,9}(\.\d{0,9})?", weight):
        return text
    return "" if weight.startswith("-") else word


def mapped(text: str) -> list[str]:
    """FunASR's JSON object of phrases and weights in a text, or words with spaces between them."""
    tree = parse_object(text)
    return text.split() if tree is None else list(tree)


def prompted(text: str) -> list[str]:
    """What a prompt of OpenAI's lists: the pieces between commas and ends of lines, where there are several, of up to
    five words. A prompt that is no list has no phrases: it is a text to go on from, which no model here reads.
    """
    pieces = [x.strip(" .\t\r") for x in re.split(r"[,;\n]", text)]
    short = [x for x in pieces if x and len(x.split()) <= _PROMPT_WORDS and len(x) <= LONGEST]
    return short[:MOST] if len(pieces) > 1 else []
