"""Texts that replace one another -> what an append-only protocol adds to what it has said."""

from __future__ import annotations

__all__ = ["Appended"]


class Appended:
    """Partials and finals of successive segments, as one growing text.

    Greedy search only ever appends. Where a search changes its mind, nothing is added until its text agrees
    again; a final is then appended from where the two part, as no word may be lost.
    """

    def __init__(self, *, space: bool = False) -> None:
        self._sent = ""  # of the running segment, with the space before it
        self._space = " " if space else ""

    def partial(self, text: str) -> str:
        text = self._space + text
        if not text.startswith(self._sent):
            return ""
        added, self._sent = text[len(self._sent) :], text
        return added

    def final(self, text: str) -> str:
        text = self._space + text
        self._space = " "
        if self._sent.startswith(text):  # cut by length: the last word belongs to the next segment
            self._sent = self._sent[len(text) :]
            return ""
        same = next((i for i, (a, b) in enumerate(zip(text, self._sent, strict=False)) if a != b), None)
        same, self._sent = len(self._sent) if same is None else same, ""
        return text[same:]
