"""One client's stream: bytes in, steps of samples out to an engine, its emissions in, events out.

No sockets, threads or clocks. Whatever the packets' sizes, the samples of each step are the same, hence the
tokens:

    session = Session(engine, options)
    session.push(data)                        # as often as packets come
    while session.ready:
        session.accept(*engine.step(... session.take() ...))  # events

`run` is that loop for a single stream. The scheduler does it for many at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from asr.audio import SAMPLE_RATE
from asr.errors import ProtocolError
from asr.search.beam import EVERY
from asr.search.config import SearchConfig
from asr.search.phrases import compile_phrases
from streaming.codecs import decoder, splitter
from streaming.endpoint import Endpointer, Rules
from streaming.engine import Batch, Engine
from streaming.events import Ended, Event, Final, Options, Partial, PhrasesRefused, Settled
from streaming.fifo import Fifo
from streaming.load import Kind
from streaming.segment import Segment, text_of
from streaming.voice import Voice

if TYPE_CHECKING:
    from asr.heads import Emission

__all__ = ["Group", "Session", "run"]

_SLACK_SECONDS = 2.0
_CONTEXT_SECONDS = 2.0
"""What a session that goes on where another broke off hears again, beside the model's left context."""
_PAUSE_SECONDS = 0.5
"""Without a token: the word before is complete."""


@dataclass(frozen=True)
class Group:
    """Sessions of one group share a step of `samples`: all are at their first, a later or their last."""

    kind: Kind
    samples: int


class Session:
    """State is bounded: a ring of `backlog` seconds of audio (and a little more), the engine's state, one
    segment.
    """

    def __init__(self, engine: Engine, options: Options, *, backlog: float = 8.0, model: str = "") -> None:
        latency_ms = engine.latencies[0] if options.latency_ms is None else options.latency_ms
        self.options = options
        self.chunk = engine.chunk_for(latency_ms)
        self.search = engine.search(_in_time(options, engine.frame_seconds))
        self.state: Any = engine.init_state(self.chunk, options.head, self.search)
        """The engine's own; the caller of `take` and `accept` hands it over and back."""
        self._engine = engine
        self._keeps_back = engine.keeps_back(options.head, self.search)
        self._tail: list[Emission] = []
        self._first, self._next = engine.samples_first(self.chunk), engine.samples_next(self.chunk)
        self.kind = Kind(
            model, (self.chunk, options.head, self.search.group), seconds=self._next / SAMPLE_RATE
        )
        """Sessions of one kind step together where their steps are of one length."""
        self._flush = engine.flush_samples
        self._frame_samples = round(engine.frame_seconds * SAMPLE_RATE)
        room = int((backlog + _SLACK_SECONDS) * SAMPLE_RATE)
        self._fifo = Fifo(max(room, 2 * self._first) + self._flush)
        self._decoder = decoder(options)
        self._endpointer = Endpointer(options.endpointing, frame_seconds=engine.frame_seconds)
        self._voice: Voice | None = None
        phrases = None
        self.notices: list[Event] = []
        """What there is to say before any audio."""
        if options.search.phrases:
            phrases = compile_phrases(options.search.phrases, options.search.phrase_boost, engine.tokenizer)
            self.notices += [PhrasesRefused(phrases.refused)] if phrases.refused else []
        self._segment = Segment(
            engine.tokenizer,
            frame_seconds=engine.frame_seconds,
            phrases=phrases,
            calibration=engine.calibration(self.chunk, options.head),
        )
        self._index = 0
        self._taken = 0
        self._listen(options.endpointing)
        self._news, self._shown = False, -math.inf  # since the last partial, and when that was
        self._ended = False
        self._closed = False

    # ---- audio in

    def push(self, data: bytes) -> None:
        """Pieces of audio, as the `splitter` of the session's encoding made them.

        Raises AudioError: half a sample, not a number, float samples far out of [-1, 1], what is not Opus.
        ProtocolError: after `end`, or more audio at once than is buffered.
        """
        if self._ended:
            raise ProtocolError("audio came after the end of its stream: open a new session for more")
        self._fifo.write(self._decoder.push(data))

    def end(self) -> list[Event]:
        """No more audio follows. The events are all there will be if nothing is left to step, else empty."""
        if self._ended:
            raise ProtocolError("the stream was ended before")
        self._ended = True
        if self._decoder.seconds:
            self._fifo.write(self._decoder.finish())
            self._fifo.write(np.zeros(self._flush, np.float32))
        return [] if self.ready else self._close()

    def update(self, options: Options) -> None:
        """From now on, what to tell and where to cut text is as in `options`; the recognition runs on untouched.
        All that makes its state stays as it was: model, latency, head and the form of the audio; of the search, what
        does not (`SearchConfig.memory`) weighs from now on as it says.
        """
        search = self.options.search
        if options.search.memory == search.memory:
            search = options.search
            self.search = replace(self._engine.search(search), lag_frames=self.search.lag_frames)
        self._endpointer.change(options.endpointing)
        self._listen(options.endpointing)
        self.options = replace(
            self.options,
            search=search,
            partials=options.partials,
            partial_interval=options.partial_interval,
            words=options.words,
            confidence=options.confidence,
            endpointing=options.endpointing,
        )

    def _listen(self, rules: Rules) -> None:
        """To voices, from now on, if a rule asks for them."""
        if rules.voice is None:
            self._voice = None
        elif self._voice is None:
            self._voice = Voice(self._taken, threshold=rules.threshold)
        else:
            self._voice.threshold = rules.threshold

    # ---- steps

    @property
    def ready(self) -> bool:
        """A step can be taken."""
        return not self._closed and len(self._fifo) >= (1 if self._ended else self._due)

    @property
    def group(self) -> Group:
        return Group(self.kind, self._size)

    @property
    def _due(self) -> int:
        """Samples that a step takes."""
        return self._next if self._taken else self._first

    @property
    def at_last_step(self) -> bool:
        """The next step is the last: less than a step was left when the stream ended, and the silence that flushes."""
        return self._ended and len(self._fifo) < self._due + self._flush

    @property
    def _size(self) -> int:
        """The next step's length. A stream's last is as many chunks as bring out what the look-ahead holds, too."""
        if not self.at_last_step:
            return self._due
        lead = self._due - self._next
        needed = len(self._fifo) + max(0, self._first - self._next) - lead
        return lead + self._next * -(-needed // self._next)

    @property
    def received(self) -> int:
        """Samples of 16 kHz that have come so far; `taken` of them went into steps."""
        return self._taken + len(self._fifo)

    @property
    def taken(self) -> int:
        return self._taken

    def take(self) -> tuple[np.ndarray, int]:
        """The next step's samples (S,), and how many of them are the stream's: fewer only where it ends."""
        size = self._size
        samples = self._fifo.read(size)
        step = np.pad(samples, (0, size - len(samples)))
        self._taken += len(samples)
        if self._voice is not None:
            self._voice.push(samples)
        return step, len(samples)

    def accept(self, emissions: list[Emission], state: Any) -> list[Event]:
        """What the engine made of the samples last taken."""
        self.state = state
        last = self._ended and not len(self._fifo)
        before, self._tail = self._tail, []
        if self._keeps_back and last:
            emissions = emissions + self._engine.finish(state, self.options.head, self.search)
        elif self._keeps_back:
            self._tail = self._engine.tail(state, self.options.head)
        events: list[Event] = []
        for emission in emissions:
            self._cut(emission.frame, events)
            self._segment.add(emission)
            self._endpointer.emitted(emission.frame)
        self._cut(min(self._seen(), self._tail[0].frame) if self._tail else self._seen(), events)
        if last:
            return events + self._close()
        self._news = self._news or bool(emissions) or self._tail != before
        due = self._taken / SAMPLE_RATE - self._shown >= self.options.partial_interval
        return events + self._partial() if self._news and due and self.options.partials else events

    def _seen(self) -> int:
        """Output frames that the model has decided on: its output lags by what it looks ahead."""
        return max(0, self._taken - (self._first - self._next)) // self._frame_samples

    # ---- text

    def _cut(self, frame: int, events: list[Event]) -> None:
        """End the running segment where a rule says so, before anything at `frame`."""
        match self._endpointer.check(frame, quiet=self._quiet(frame)):
            case "silence":
                pause = self._between(self._segment.last + 1, frame)
                events += self._final(self._segment, speech_final=True, settled=pause)
                self._segment = self._segment.empty()
                self._endpointer.restart(frame)
            case "no_text":
                settled = self._between(self._endpointer.start, frame)
                events.append(Settled(settled, self._resume(settled)))
                self._endpointer.restart(frame)
            case "length":
                done, rest = self._segment.split(anywhere=self._endpointer.overlong(frame))
                if done:
                    settled = self._between(done.last + 1, rest.first if rest else done.last + 1)
                    events += self._final(done, speech_final=False, settled=settled)
                    self._segment = rest
                    self._endpointer.restart(rest.first if rest else frame, last=rest.last if rest else None)

    def _quiet(self, frame: int) -> int:
        """Frames of the longest stretch without a voice since the running segment's last token."""
        after, size = self._endpointer.after, self._frame_samples
        if self._voice is None or after is None:
            return 0
        return self._voice.quiet(after * size, frame * size) // size

    def _close(self) -> list[Event]:
        self._closed = True
        events = self._final(self._segment, speech_final=True, settled=self._settled_at_the_end())
        self._segment = self._segment.empty()
        return [*events, Ended(self._decoder.seconds)]

    def _between(self, frame: int, later: int) -> float:
        return round((frame + later) / 2 * self._engine.frame_seconds, 3)

    def _resume(self, settled: float) -> float:
        """Whole chunks since the stream's start, so that another session cuts the audio at the same places."""
        context = _CONTEXT_SECONDS + self.chunk.left * self._engine.frame_seconds
        samples = int((settled - context) * SAMPLE_RATE)
        return max(0, samples // self._next * self._next) / SAMPLE_RATE

    def _settled_at_the_end(self) -> float:
        """Where the stream may have been cut in a word, another session is to hear that word whole."""
        if not self._segment:
            return 0.0
        last, end = self._segment.last + 1, self._seen()
        if (end - last) * self._engine.frame_seconds >= _PAUSE_SECONDS:
            return self._between(last, end)
        done, rest = self._segment.split(anywhere=False)
        return self._between(done.last + 1, rest.first) if done and rest else 0.0

    def _partial(self) -> list[Event]:
        segment = self._segment.followed_by(self._tail) if self._tail else self._segment
        words = segment.words(limit=self._taken / SAMPLE_RATE)
        if not words:
            return []
        self._news, self._shown = False, self._taken / SAMPLE_RATE
        return [
            Partial(
                segment=self._index,
                text=text_of(words),
                words=words if self.options.words else (),
                tokens=segment.tokens,
            )
        ]

    def _final(self, segment: Segment, *, speech_final: bool, settled: float) -> list[Event]:
        # The model may emit the last word in the silence that flushes it; the client never sent that.
        limit = self._decoder.seconds if self._ended else self._taken / SAMPLE_RATE
        words = segment.words(limit=limit)
        if not words:
            return []
        index, self._index = self._index, self._index + 1
        return [
            Final(
                segment=index,
                text=text_of(words),
                words=words if self.options.words else (),
                tokens=segment.tokens,
                start=words[0].start,
                end=words[-1].end,
                speech_final=speech_final,
                settled=settled,
                resume=self._resume(settled),
            )
        ]


def _in_time(options: Options, frame_seconds: float) -> SearchConfig:
    """A beam settles its tokens before silence ends their segment."""
    silence = options.endpointing.silence
    if options.search.greedy or silence is None:
        return options.search
    lag = max(1, min(options.search.lag_frames, int(silence / frame_seconds) - EVERY))
    return replace(options.search, lag_frames=lag)


def run(engine: Engine, options: Options, packets: Iterable[bytes]) -> Iterator[Event]:
    """One stream from its packets to its events. Raises what `Session.push` and the engine raise."""
    options = options if options.latency_ms is not None else replace(options, latency_ms=engine.latencies[0])
    session = Session(engine, options)
    yield from session.notices
    pieces = splitter(options)
    for packet in packets:
        for piece, _ in pieces.push(packet):
            session.push(piece)
            yield from _step(engine, session)
    yield from session.end()
    yield from _step(engine, session)


def _step(engine: Engine, session: Session) -> Iterator[Event]:
    while session.ready:
        samples, length = session.take()
        batch = Batch(
            chunk=session.chunk,
            head=session.options.head,
            samples=samples[None],
            lens=np.array([length], np.int64),
            states=[session.state],
            searches=[session.search],
        )
        (emissions,), (state,) = engine.step(batch)
        yield from session.accept(emissions, state)
