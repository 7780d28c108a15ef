"""Transcripts in one normal form, so that corpora which are written differently can be trained on
together."""

from __future__ import annotations

import re

__all__ = ["letters_only", "number_words"]

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()
_APOSTROPHES = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "`": "'"})


def number_words(number: int) -> str:
    """An English cardinal below a million in words, without "and": 1205 -> "one thousand two hundred five".

    Raises:
        ValueError: the number is negative, or a million or more.
    """
    if not 0 <= number < 1_000_000:
        raise ValueError(f"{number} is not between 0 and 999999")
    for size, name in ((1000, "thousand"), (100, "hundred")):
        if number >= size:
            rest = f" {number_words(number % size)}" if number % size else ""
            return f"{number_words(number // size)} {name}{rest}"
    if number >= 20:
        return _TENS[number // 10] + (f" {_ONES[number % 10]}" if number % 10 else "")
    return _ONES[number]


def letters_only(text: str) -> str:
    """English text as upper-case A-Z, apostrophes inside words, and single spaces.

    Whole numbers below a million become words, hyphens and other punctuation become spaces: "A T-rex, 2 cats"
    -> "A T REX TWO CATS". An apostrophe that opens or closes a word is a quotation mark and goes, except that
    a plural's ("the dogs' dinner") cannot be told from one and goes too.

    Raises:
        ValueError: a letter outside A-Z, or a number that is too long: such a text needs a recipe's own rule.
    """
    text = text.translate(_APOSTROPHES)
    text = re.sub(r"\d+", lambda match: f" {number_words(int(match[0]))} ", text).upper()
    foreign = sorted(set(re.findall(r"[^\W\d_A-Z]", text)))
    if foreign:
        raise ValueError(f"{text!r} has letters outside A-Z: {' '.join(foreign)}")
    words = re.sub(r"[^A-Z']+", " ", text).split()
    return " ".join(filter(None, (word.strip("'") for word in words)))
