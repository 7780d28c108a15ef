"""What a command line says of the search, and how verbs get it."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from asr.errors import ConfigError, DataError
from asr.options import NOTHING_SAID, SearchOptions, option, searching
from asr.search.config import SearchConfig
from tests.commands import verbs

WITH_SEARCH = {"transcribe", "evaluate", "serve", "stream"}


def test_what_is_not_said_is_left_alone() -> None:
    assert NOTHING_SAID.search() is None and NOTHING_SAID.given() == {}
    assert SearchOptions(blank_skip=0.99, phrase_margin=0.0).search() == SearchConfig(
        blank_skip=0.99, phrase_margin=0.0
    )


def test_hypotheses_make_it_a_beam_search() -> None:
    assert SearchOptions(beam=8).search() == SearchConfig(kind="beam", beam=8)
    assert SearchOptions(lm="lm.arpa", lm_scale=0.5).given() == {
        "kind": "beam",
        "lm": "lm.arpa",
        "lm_scale": 0.5,
    }
    assert SearchOptions(beam=3, rescoring=True).given()["kind"] == "rescoring"
    with pytest.raises(ConfigError, match="beam is 65; it must be from 1 to 64"):
        SearchOptions(beam=65).search()


def test_a_file_of_phrases(tmp_path: Path) -> None:
    phrases = tmp_path / "phrases.txt"
    phrases.write_text("\ufeffGrace Hopper\n\n  Zipformer \nGrace Hopper\n", encoding="utf-8")
    assert SearchOptions(phrases=phrases).search() == SearchConfig(phrases=("Grace Hopper", "Zipformer"))
    with pytest.raises(DataError, match=r"absent.*a phrase a line"):
        SearchOptions(phrases=tmp_path / "absent").search()


def test_verbs_share_the_options() -> None:
    common = {
        "--beam",
        "--rescoring",
        "--blank-skip",
        "--phrases",
        "--phrase-margin",
        "--lm",
        "--lm-scale",
        "--lodr",
    }
    for name, verb in verbs().items():
        known = {name for parameter in verb.params for name in parameter.opts}
        assert (common <= known) == (name in WITH_SEARCH)


def test_a_verb_gets_what_was_said() -> None:
    app, seen = typer.Typer(), list[object]()

    @app.command()
    @searching(lm=option("Another.", "--model"))
    def verb(first: str, search: SearchOptions = NOTHING_SAID, last: int = 3) -> None:
        seen.extend((first, search, last))

    result = CliRunner().invoke(app, ["a", "--model", "x", "--beam", "2", "--last", "5"])
    assert result.exit_code == 0, result.output
    assert seen == ["a", SearchOptions(lm="x", beam=2), 5]
    assert "--lm " not in CliRunner().invoke(app, ["--help"]).output
