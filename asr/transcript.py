"""What was said and when: words with times and confidence, and the files that they are written as."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

from asr.errors import DataError
from asr.text import join_words

__all__ = ["Transcript", "Word"]

CAPTION_LINE = 42  # characters, the usual width of subtitles
CAPTION_LINES = 2
CAPTION_SECONDS = 6.0  # a caption spans no more, unless one word does
CAPTION_SHORTEST = 1.0  # a caption stays this long where the next one leaves room
CAPTION_PAUSE = 0.8  # seconds of silence that end a caption


@dataclass(frozen=True)
class Word:
    """A word, without spaces; start and end in seconds, start <= end; confidence from 0 to 1.

    phrase: of those that were to be recognised more readily, the one that this word is a part of; empty if none.
    """

    text: str
    start: float
    end: float
    confidence: float
    phrase: str = ""


@dataclass(frozen=True)
class Transcript:
    """The words of a recording that lasts `duration` seconds, in order of time."""

    words: tuple[Word, ...]
    duration: float

    @property
    def text(self) -> str:
        return join_words(word.text for word in self.words)

    def to_txt(self) -> str:
        """The text and a line's end."""
        return f"{self.text}\n"

    def to_json(self) -> str:
        """{"text", "duration", "words": [{"text", "start", "end", "confidence"}]}, times in seconds; words of a boosted
        phrase have "phrase", too.
        """
        words = [{k: v for k, v in asdict(word).items() if k != "phrase" or v} for word in self.words]
        tree = {"text": self.text, "duration": self.duration, "words": words}
        return json.dumps(tree, ensure_ascii=False, indent=2) + "\n"

    @staticmethod
    def from_json(text: str) -> Transcript:
        """The inverse of `to_json`. Raises DataError naming what is missing or of another type."""
        try:
            tree = json.loads(text)
        except ValueError as error:
            raise DataError(f"transcript: not JSON ({error}); write it with `to_json`") from error
        words = _field(tree, "words", list, "transcript")
        return Transcript(
            tuple(_word(word, f"transcript, words[{i}]") for i, word in enumerate(words)),
            _field(tree, "duration", float, "transcript"),
        )

    def to_srt(self) -> str:
        """SubRip subtitles. Empty for a transcript without words."""
        return "".join(
            f"{number}\n{_time(start, ',')} --> {_time(end, ',')}\n{_wrap(text).replace('-->', '->')}\n\n"
            for number, (start, end, text) in enumerate(self._captions(), 1)
        )

    def to_vtt(self) -> str:
        """WebVTT subtitles."""
        return "WEBVTT\n" + "".join(
            f"\n{_time(start, '.')} --> {_time(end, '.')}\n{escape(_wrap(text), quote=False)}\n"
            for start, end, text in self._captions()
        )

    def _captions(self) -> Iterator[tuple[int, int, str]]:
        """(start, end, text), milliseconds; none is empty in text or time, and none overlaps another."""
        groups = list(self._groups())
        starts = [round(1000 * group[0].start) for group in groups]
        shown = 0
        for i, group in enumerate(groups):
            start = max(shown, starts[i])
            end = round(1000 * max(word.end for word in group))
            longest = starts[i + 1] if i + 1 < len(groups) else round(1000 * self.duration)
            shown = max(min(max(end, start + round(1000 * CAPTION_SHORTEST)), longest), start + 1)
            yield start, shown, join_words(word.text for word in group)

    def _groups(self) -> Iterator[list[Word]]:
        group: list[Word] = []
        for word in self.words:
            if not word.text.strip():
                continue
            if group and not _fits(group, word):
                yield group
                group = []
            group.append(word)
        if group:
            yield group


def _fits(group: list[Word], word: Word) -> bool:
    text = join_words([*(w.text for w in group), word.text])
    return (
        word.start - group[-1].end <= CAPTION_PAUSE
        and word.end - group[0].start <= CAPTION_SECONDS
        and _wrap(text).count("\n") < CAPTION_LINES
    )


def _wrap(text: str) -> str:
    return textwrap.fill(text, CAPTION_LINE, break_on_hyphens=False)


def _time(milliseconds: int, point: str) -> str:
    seconds, milliseconds = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{point}{milliseconds:03}"


def _word(tree: Any, where: str) -> Word:
    start, end, confidence = (_field(tree, name, float, where) for name in ("start", "end", "confidence"))
    phrase = _field(tree, "phrase", str, where) if "phrase" in tree else ""
    return Word(_field(tree, "text", str, where), start, end, confidence, phrase)


def _field(tree: Any, name: str, kind: Callable[..., Any], where: str) -> Any:
    if not isinstance(tree, dict) or name not in tree:
        raise DataError(f"{where}: no {name!r}; write it with `to_json`")
    value = tree[name]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind):  # type: ignore[arg-type]
        raise DataError(f"{where}: {name!r} is {value!r}, not a {kind.__name__}; write it with `to_json`")
    return value
