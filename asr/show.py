"""What the command line shows: progress bars, words with their times, partial text that changes."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from asr.errors import RillError

if TYPE_CHECKING:
    from asr.transcript import Transcript

__all__ = ["LiveText", "complain", "explain", "latency_line", "progress", "words"]


def complain(message: str, *, to: TextIO | None = None) -> None:
    """One line `error: ...` on stderr, in red where that is a terminal."""
    to = to or sys.stderr
    label = "\x1b[1;31merror:\x1b[0m" if to.isatty() else "error:"
    print(label, " ".join(message.split("\n")), file=to)


def explain(error: Exception) -> str:
    """An error in one line: what is wrong with what, and the remedy."""
    match error:
        case RillError():
            return str(error)
        case OSError() if error.filename is not None:
            return f"{error.filename}: {error.strerror}"
        case OSError():
            return str(error)
        case ImportError():
            return f"{error}; `asr doctor` tells what is missing and how to get it"
        case MemoryError():
            return "out of memory; a smaller --batch-seconds, or a smaller batch in the recipe, needs less"
    return f"{type(error).__name__}: {error} (a mistake in Rill: please report it with what --debug adds)"


@contextmanager
def progress(what: str, unit: str) -> Iterator[Callable[[float, float], None]]:
    """A bar on stderr with rate and time left, moved by calling what this yields with (done, total).

    Nothing is drawn where stderr is no terminal.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn(what),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} " + unit),
        TextColumn("{task.fields[rate]} a second"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None, start=True, rate="-", visible=False)

        def move(done: float, total: float) -> None:
            speed = bar.tasks[0].speed
            rate = f"{speed:.1f}" if speed else "-"
            bar.update(task, completed=done, total=total, rate=rate, visible=True)

        yield move


def words(transcript: Transcript) -> str:
    """A line a word: start and end in seconds, confidence, text."""
    lines = [f"{w.start:9.2f} {w.end:9.2f} {w.confidence:6.2f}  {w.text}" for w in transcript.words]
    return "\n".join([f"{'start s':>9} {'end s':>9} {'conf.':>6}  word", *lines])


def latency_line(first_word: float | None, final: float | None) -> str:
    """What a stream's delays were, in words. Both in seconds; None where no word came."""
    if first_word is None or final is None:
        return "no word was heard"
    first, last = f"{1000 * first_word:.0f}", f"{1000 * final:.0f}"
    return f"latency: first word {first} ms after its end, final text {last} ms after the last audio"


class LiveText:
    """Text that grows and changes: rewritten in place on a terminal, a new line a change elsewhere.

    Each line begins with the seconds since this object was made.
    """

    def __init__(self, to: TextIO | None = None) -> None:
        self._to = to or sys.stdout
        self._began = time.monotonic()
        self._shown = ""

    def show(self, text: str, *, final: bool) -> None:
        """What is heard so far; a final text will not change any more."""
        if text == self._shown and not final:
            return
        terminal = self._to.isatty()
        seconds = f"{time.monotonic() - self._began:7.2f} s"
        if terminal and not final:
            width = shutil.get_terminal_size().columns - len(seconds) - 3
            line = text if len(text) <= width else "…" + text[1 - width :]
            self._to.write(f"\r\x1b[K\x1b[2m{seconds}  {line}\x1b[0m")
        else:
            start = "\r\x1b[K" if terminal else ""
            self._to.write(f"{start}{seconds}  {text}{'  (final)' if final else ''}\n")
        self._to.flush()
        self._shown = "" if final else text
