from __future__ import annotations

import io

import pytest

from asr.errors import AudioError
from asr.show import LiveText, complain, explain, latency_line, progress, words
from asr.transcript import Transcript, Word


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_complaints_are_one_line() -> None:
    plain, terminal = io.StringIO(), Terminal()
    complain("a\nb", to=plain)
    complain("a", to=terminal)
    assert plain.getvalue() == "error: a b\n"
    assert terminal.getvalue() == "\x1b[1;31merror:\x1b[0m a\n"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (AudioError("x.wav: is text"), "x.wav: is text"),
        (FileNotFoundError(2, "No such file or directory", "y"), "y: No such file or directory"),
        (OSError("odd"), "odd"),
        (
            MemoryError(),
            "out of memory; a smaller --batch-seconds, or a smaller batch in the recipe, needs less",
        ),
        (
            ImportError("No module named 'k2'"),
            "No module named 'k2'; `asr doctor` tells what is missing and how to get it",
        ),
    ],
)
def test_errors_are_explained(error: Exception, said: str) -> None:
    assert explain(error) == said


def test_words_are_a_table() -> None:
    text = words(Transcript((Word("HELLO", 0.5, 1.25, 0.987),), 2.0))
    assert text.splitlines() == ["  start s     end s  conf.  word", "     0.50      1.25   0.99  HELLO"]


def test_live_text_away_from_a_terminal_is_a_line_a_change() -> None:
    out = io.StringIO()
    live = LiveText(out)
    for text in ("A", "A", "A B"):
        live.show(text, final=False)
    live.show("A B", final=True)
    live.show("A B", final=False)
    assert [line[11:] for line in out.getvalue().splitlines()] == ["A", "A B", "A B  (final)", "A B"]


def test_live_text_on_a_terminal_keeps_to_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    out = Terminal()
    live = LiveText(out)
    live.show("x" * 100, final=False)
    assert "\n" not in out.getvalue() and "…" + "x" * 26 in out.getvalue() and "x" * 28 not in out.getvalue()
    live.show("x" * 100, final=True)
    assert out.getvalue().endswith("x" * 100 + "  (final)\n")


def test_latencies_in_words() -> None:
    assert (
        latency_line(0.4321, 0.25)
        == "latency: first word 432 ms after its end, final text 250 ms after the last audio"
    )
    assert latency_line(None, None) == "no word was heard"


def test_progress_is_silent_away_from_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("working", "files") as move:
        move(1, 2)
    assert capsys.readouterr() == ("", "")
