"""Transcripts in one normal form, so that corpora which are written differently can be trained on together, and what
was recognised is compared with what was said and not with how it is written."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from typing import Literal, get_args

from asr.errors import ConfigError

__all__ = [
    "NORMALIZERS",
    "Normalizer",
    "join_words",
    "letters_only",
    "normalizer",
    "number_words",
    "split_words",
]

Normalizer = Literal["lower", "upper", "punctuation", "hyphens", "numbers", "accents", "compatibility"]

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()
_APOSTROPHES = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "`": "'"})

IDEOGRAPH = "[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
"""Of a regular expression: a character of Chinese or Japanese, which are written without spaces."""


def split_words(text: str) -> list[str]:
    """The words of a text: what spaces part, and each ideograph by itself, as error rates of Chinese count them."""
    return re.sub(f"({IDEOGRAPH})", r" \1 ", text).split()


def join_words(words: Iterable[str]) -> str:
    """Words, or texts, with spaces between them, but none between two ideographs: how a transcript is written."""
    return re.sub(f"(?<={IDEOGRAPH}) (?={IDEOGRAPH})", "", " ".join(words))


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


def _numbers(text: str) -> str:
    spaced = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)  # 1,205
    return re.sub(
        r"\d+", lambda match: f" {number_words(int(match[0]))} " if len(match[0]) <= 6 else match[0], spaced
    )


def _punctuation(text: str) -> str:
    """Without what is neither letter, digit, mark nor space; an apostrophe or hyphen inside a word stays."""
    text = text.translate(_APOSTROPHES)
    text = re.sub(r"(?<!\w)['\-]+|['\-]+(?!\w)", " ", text)
    return "".join(c if c in "'-" or unicodedata.category(c)[0] in "LNMZ" else " " for c in text)


def _accents(text: str) -> str:
    parts = unicodedata.normalize("NFD", text)
    return unicodedata.normalize("NFC", "".join(c for c in parts if unicodedata.category(c) != "Mn"))


NORMALIZERS: dict[Normalizer, Callable[[str], str]] = {
    "lower": str.lower,
    "upper": str.upper,
    "punctuation": _punctuation,
    "hyphens": lambda text: text.replace("-", " "),
    "numbers": _numbers,
    "accents": _accents,
    "compatibility": lambda text: unicodedata.normalize("NFKC", text),
}
"""What may be put to references and hypotheses before they are compared. numbers: digits to English words, up to six of
them; punctuation: gone, but for apostrophes and hyphens inside words; hyphens: to spaces; accents: gone;
compatibility: Unicode's NFKC, which makes full-width letters and ligatures plain ones."""


def normalizer(names: Sequence[str]) -> Callable[[str], str]:
    """The named steps one after another, and single spaces between words.

    Raises:
        ConfigError: a name that is not one of `NORMALIZERS`.
    """
    for name in names:
        if name not in NORMALIZERS:
            near = get_close_matches(name, get_args(Normalizer), 1)
            meant = f" (did you mean {near[0]}?)" if near else ""
            raise ConfigError(f"normalizer {name!r}{meant}: use {', '.join(NORMALIZERS)}")
    steps = [NORMALIZERS[name] for name in names]  # type: ignore[index]

    def normalize(text: str) -> str:
        for step in steps:
            text = step(text)
        return " ".join(text.split())

    return normalize
