"""What a client needs to go on after a broken connection: the audio that is not settled yet, and one line of time for
the sessions that follow one another. No sockets.

The server tells up to which sample all words have been told for good (`settled`), and from which sample on a new
session is to be given the audio (`resume`), so that the recogniser knows again what it knew. Words that lie before
`settled` have been told and are passed over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from asr.errors import ProtocolError
from asr.text import join_words
from asr.transcript import Word
from streaming.events import Final, Partial

__all__ = ["Tape", "Told"]


class Tape:
    """Audio as it will be sent, from `start` up to `end`, which count samples since the stream began.

    One task appends, another reads. It holds `limit` samples at most: beyond that the oldest go that have been read,
    and where none has been, `append` waits.
    """

    def __init__(self, frame_bytes: int, *, limit: int) -> None:
        self._size = frame_bytes
        self._limit = limit
        self._data = bytearray()
        self._changed = asyncio.Condition()
        self._read = 0
        self._closed = False
        self.start = 0

    @property
    def end(self) -> int:
        return self.start + len(self._data) // self._size

    @property
    def position(self) -> int:
        """Where reading goes on."""
        return self._read

    async def append(self, data: bytes) -> None:
        """Whole samples."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.end < self._limit + max(self.start, self._read))
            self._data += data
            self.forget(min(self._read, self.end - self._limit))
            self._changed.notify_all()

    async def close(self) -> None:
        """No more audio follows."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()

    async def read(self, most: int) -> bytes:
        """The next samples, `most` at most; empty at the end of the stream."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed or self._read < self.end)
            begin = (self._read - self.start) * self._size
            data = bytes(self._data[begin : begin + most * self._size])
            self._read += len(data) // self._size
            self._changed.notify_all()
            return data

    def rewind(self, position: int) -> None:
        """Read from `position` on. Raises ProtocolError if that is not kept any more."""
        if position < self.start:
            raise ProtocolError(
                f"more than {self._limit} samples of audio would have to be sent again: nothing in them was settled"
            )
        self._read = position

    def forget(self, position: int) -> None:
        """What lies before is not needed again."""
        count = min(position, self._read) - self.start
        if count > 0:
            del self._data[: count * self._size]
            self.start += count


class Told:
    """What has been told of a stream, over one session after another. Messages in, events on the stream's own time
    out. `words` is whether they are wanted.
    """

    def __init__(self, sample_rate: int, *, words: bool = True) -> None:
        self.settled = 0
        """Samples of the stream whose words have been told for good."""
        self.needed = 0
        """The sample from which the audio must be kept, and from which a new session is sent."""
        self._rate = sample_rate
        self._words = words
        self._start = 0  # sample at which the running session began
        self._known = 0.0  # seconds of the stream: words before have been told in an earlier session
        self._segment = 0
        self._held: tuple[Final, dict[str, Any]] | None = None

    def begin(self) -> int:
        """A session begins; the sample of the stream that is its first."""
        self._start, self._known, self._held = self.needed, self.settled / self._rate, None
        return self._start

    def partial(self, message: dict[str, Any]) -> Partial | None:
        """`None` where it says nothing that was not told before."""
        words, text = self._new(message)
        shown = words if self._words else ()
        return Partial(segment=self._segment, text=text, words=shown, tokens=()) if text else None

    def final(self, message: dict[str, Any]) -> Final | None:
        """`None` where it says nothing new, or its last words are to be told again if the session was not ended by the
        client: then `end` has it.
        """
        words, text = self._new(message)
        start = self._start / self._rate
        if not text:
            self.silence(message)
            return None
        event = Final(
            segment=self._segment,
            text=text,
            words=words,
            tokens=(),
            start=words[0].start if words else start + message["start"],
            end=start + message["end"],
            speech_final=message["speech_final"],
            settled=start + message["settled"] / self._rate,
            resume=start + message["resume"] / self._rate,
        )
        if any(_middle(word) > event.settled for word in words):
            self._held = event, message
            return None
        return self._tell(event, message)

    def silence(self, message: dict[str, Any]) -> None:
        """The message `settled`."""
        settled = self._start + message["settled"]
        if settled > self.settled:
            self.settled, self.needed = settled, self._start + message["resume"]

    def end(self, *, complete: bool) -> Final | None:
        """The session is over. What was held back: all of it if the session was `complete`, else what is settled."""
        if self._held is None:
            return None
        (event, message), self._held = self._held, None
        if not complete:
            words = tuple(word for word in event.words if _middle(word) <= event.settled)
            if not words:
                return None
            event = replace(event, text=join_words(x.text for x in words), words=words, end=words[-1].end)
        return self._tell(event, message)

    def _tell(self, event: Final, message: dict[str, Any]) -> Final:
        self.silence(message)
        self._segment += 1
        return event if self._words else replace(event, words=())

    def _new(self, message: dict[str, Any]) -> tuple[tuple[Word, ...], str]:
        """The words that no earlier session has told, at their times in the stream, and their text."""
        start = self._start / self._rate
        every: Sequence[dict[str, Any]] = message["words"]
        words = tuple(
            Word(**({"confidence": 1.0} | word | {x: start + word[x] for x in ("start", "end")}))
            for word in every
        )
        new = tuple(word for word in words if _middle(word) >= self._known)
        return new, message["text"] if len(new) == len(words) else join_words(word.text for word in new)


def _middle(word: Word) -> float:
    return (word.start + word.end) / 2
