"""Normalizers of texts that are compared."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.errors import ConfigError
from asr.text import NORMALIZERS, normalizer


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
