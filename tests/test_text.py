"""Normalizers of texts that are compared."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.errors import ConfigError
from asr.text import NORMALIZERS, join_words, normalizer, split_words


@pytest.mark.parametrize(
    ("names", "text", "expected"),
    [
        ("", "  As it,  is ", "As it, is"),
        ("lower", "ÄRGER in Köln", "ärger in köln"),
        ("upper", "straße", "STRASSE"),
        ("punctuation", "“Don’t!” he said -- well-known, isn't it? 'yes'", "Don't he said well-known isn't it yes"),
        ("punctuation", "naïve 北京。", "naïve 北京"),
        ("hyphens", "well-known", "well known"),
        ("numbers", "1,205 cats, 3 dogs, 12345678", "one thousand two hundred five cats, three dogs, 12345678"),
        ("numbers", "T34 room", "T thirty four room"),
        ("accents", "naïve café Ünal", "naive cafe Unal"),
        ("compatibility", "ﬁne Ａ１", "fine A1"),
        ("lower numbers punctuation", "Room 7, Please.", "room seven please"),
    ],
)  # fmt: skip
def test_each(names: str, text: str, expected: str) -> None:
    assert normalizer(names.split())(text) == expected


@given(st.lists(st.sampled_from(sorted(NORMALIZERS)), max_size=4), st.text(max_size=30))
def test_texts_stay_texts_of_single_spaces(names: list[str], text: str) -> None:
    normal = normalizer(names)(text)
    assert normal == " ".join(normal.split())


def test_a_name_that_there_is_not() -> None:
    with pytest.raises(ConfigError, match="did you mean lower"):
        normalizer(["lowr"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("我爱你", ["我", "爱", "你"]),
        ("用 Rill 转写 hello world", ["用", "Rill", "转", "写", "hello", "world"]),
        ("カナ", ["カ", "ナ"]),
        ("the cat", ["the", "cat"]),
    ],
)
def test_words_of_languages_with_and_without_spaces(text: str, words: list[str]) -> None:
    assert split_words(text) == words
    assert join_words(words) == text
