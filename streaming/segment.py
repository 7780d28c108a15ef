"""The running segment: its tokens, and the words that they make."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from asr.calibration import PLAIN, Calibration
from asr.search.phrases import Phrases, mark
from asr.text import join_words
from asr.tokenizer import WordBuilder
from asr.transcript import Word
from streaming.events import Token

if TYPE_CHECKING:
    from asr.heads import Emission
    from asr.tokenizer import Tokenizer

__all__ = ["Segment", "text_of"]

_SPACE, _BYTE = "▁", "<0x"  # as SentencePiece writes them in its pieces


class Segment:
    """Emissions of one segment, which the endpointer keeps short. Its words begin no earlier than `after` (seconds)."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        frame_seconds: float,
        phrases: Phrases | None = None,
        calibration: Calibration = PLAIN,
        after: float = 0.0,
        emissions: Iterable[Emission] = (),
    ) -> None:
        self._tokenizer = tokenizer
        self._phrases = phrases
        self._calibration, self._after = calibration, after
        self._frame_seconds = frame_seconds
        self._emissions: list[Emission] = []
        self._tokens: list[Token] = []
        self._builder = WordBuilder(
            tokenizer, frame_seconds=frame_seconds, calibration=calibration, after=after
        )
        for emission in emissions:
            self.add(emission)

    def __bool__(self) -> bool:
        return bool(self._emissions)

    @property
    def first(self) -> int:
        """Frame of the first token."""
        return self._emissions[0].frame

    @property
    def last(self) -> int:
        """Frame of the last token."""
        return self._emissions[-1].frame

    @property
    def tokens(self) -> tuple[Token, ...]:
        return tuple(self._tokens)

    def add(self, emission: Emission) -> None:
        self._emissions.append(emission)
        self._builder.push([emission])
        text = self._tokenizer.piece(emission.token).replace(_SPACE, " ")
        time = round(emission.frame * self._frame_seconds, 3)
        self._tokens.append(Token(text, time, emission.log_probability))

    def empty(self) -> Segment:
        """The one that follows."""
        return self._part((), after=self._end)

    def split(self, *, anywhere: bool) -> tuple[Segment, Segment]:
        """The words that are complete, and the one that may still grow.

        `anywhere` is for texts without spaces: all is complete, but for the bytes of a character.
        """
        pieces = [self._tokenizer.piece(emission.token) for emission in self._emissions]
        if anywhere:
            cuts = [i for i, piece in enumerate(pieces, 1) if not piece.startswith(_BYTE)]
            cut = cuts[-1] if cuts else len(pieces)
        else:
            cuts = [i for i, piece in enumerate(pieces) if piece.startswith((_SPACE, " "))]
            cut = cuts[-1] if cuts else 0
        done = self._part(self._emissions[:cut])
        return done, self._part(self._emissions[cut:], after=done._end)

    def followed_by(self, tail: Iterable[Emission]) -> Segment:
        """With what may yet change."""
        return self._part([*self._emissions, *tail])

    def words(self, *, limit: float) -> tuple[Word, ...]:
        """Stream-absolute times, none beyond `limit` seconds; the last word may still grow."""
        found = self._builder.until(limit)
        return mark(found, self._emissions, self._phrases, self._tokenizer) if self._phrases else found

    @property
    def _end(self) -> float:
        found = self._builder.words
        return found[-1].end if found else self._after

    def _part(self, emissions: Sequence[Emission], after: float | None = None) -> Segment:
        return Segment(
            self._tokenizer,
            frame_seconds=self._frame_seconds,
            phrases=self._phrases,
            calibration=self._calibration,
            after=self._after if after is None else after,
            emissions=emissions,
        )


def text_of(words: Sequence[Word]) -> str:
    return join_words(word.text for word in words)
