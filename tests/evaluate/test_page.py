"""The page: whole, alone, and safe whatever the texts say."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from asr.evaluate.confidence import Reliability
from asr.evaluate.errors import Confusion, Errors, align_words
from asr.evaluate.page import html
from asr.evaluate.report import Group, Report, Row, Utterance
from asr.evaluate.times import Spread
from tests.pages.html import read


def report(reference: str = "the cat <b>sat</b>", hypothesis: str = "the & mat sat") -> Report:
    pairs = align_words(reference.split(), hypothesis.split())
    spread = Spread(0.2, 0.15, 0.4, 7)
    row = Row(
        "ctc",
        450,
        Errors.of(pairs),
        Errors(1, 2, 3, 40),
        1,
        3.0,
        0.3,
        interval=(0.2, 0.9),
        delays=dict.fromkeys(("first", "token", "word", "final"), spread),
        step=spread,
        streams=1.0,
        word_times={"start": spread, "end": spread},
        plain_word_times={"start": Spread(0.3, 0.3, 0.5, 7), "end": spread},
        confidence=Reliability.of([0.9, 0.4], [True, False]),
        plain_confidence=Reliability.of([0.99, 0.9], [True, False]),
        confused=(Confusion("cat", None, 3), Confusion(None, "<i>", 1)),
        by_length=(Group("2 to 4 s", 1, 3.0, Errors.of(pairs)),),
        by_speaker=(Group("<anna>", 1, 3.0, Errors.of(pairs)),),
    )
    return Report(
        (row,), {row.name: {"u<1>": hypothesis}}, {"u<1>": Utterance("<anna>", 3.0, reference)}, {row.name: {"u<1>": pairs}},
        title="a & b",
    )  # fmt: skip


def test_the_page_is_whole_and_alone() -> None:
    page = html(report())
    text = read(page)
    for told in (
        "Evaluation: a & b",
        "ctc",
        "450 ms",
        "20.0 to 90.0",
        "200, 400",
        "u<1>",
        "<b>sat</b>",
        "(nothing)",
    ):
        assert told in text
    assert "uncalibrated" in text and "Expected calibration error" in text
    assert not re.findall(r"https?:", page)
    assert "prefers-color-scheme: dark" in page and 'class="wrong"' in page


def test_rows_that_know_little_and_no_rows() -> None:
    row = Row("ctc", None, Errors(), Errors(), 0, 0.0, 0.0)
    assert "offline" in read(html(Report((row,), {}, {})))
    assert "Nothing was decoded" in read(html(Report((), {}, {})))


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_text_is_only_text(reference: str, hypothesis: str) -> None:
    read(html(report(reference, hypothesis)))
