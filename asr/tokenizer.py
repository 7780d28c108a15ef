"""Text <-> tokens: SentencePiece (Kudo and Richardson 2018) or characters; and from tokens, words with times.

Token 0 is the blank, in every tokenizer. A space is written "▁" in pieces, as SentencePiece does.
"""

from __future__ import annotations

import codecs
import io
import json
import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import sentencepiece

from asr.calibration import PLAIN, Calibration, Heard
from asr.errors import BundleError, DataError
from asr.text import IDEOGRAPH, join_words
from asr.transcript import Word

if TYPE_CHECKING:
    from asr.heads.base import Emission

__all__ = ["Kind", "Tokenizer", "WordBuilder", "words"]

Kind: TypeAlias = Literal["unigram", "bpe", "characters"]

BLANK, UNKNOWN, SPACE = "<blk>", "<unk>", "▁"
_PARTS = re.compile(rf"\s+|{IDEOGRAPH}|(?:(?!{IDEOGRAPH})\S)+")
BLANKS = (BLANK, "<blank>", "<pad>")  # as others call it
UNKNOWN_TEXT = "⁇"
UNWRITTEN = (*BLANKS, "<s>", "</s>", "<sos/eos>")  # icefall's are of the type "user-defined", not "control"
THREADS = 4  # fixed: SentencePiece sums by thread, so its pieces depend on their number


class Tokenizer:
    """`size` tokens, blank included. Build one with `train` or `from_bytes`.

    Texts are brought to Unicode's NFC, with single spaces; case stays as it is. So
    `decode(encode(text))` gives this normal form of `text` for every text, with byte fallback.
    """

    def __init__(self, kind: Kind, data: bytes) -> None:
        """Use `from_bytes`."""
        self.kind: Kind = kind
        self._data = data
        self._pieces: list[str]
        self._processor: sentencepiece.SentencePieceProcessor | None = None
        if kind == "characters":
            self._pieces = _read_alphabet(data)
            self._numbers = {piece: number for number, piece in enumerate(self._pieces)}
        else:
            self._processor = _read_sentencepiece(data)
            self._pieces = [self._processor.id_to_piece(i) for i in range(self._processor.get_piece_size())]
        self._written = [self._text(number) for number in range(self.size)]

    @staticmethod
    def train(
        texts: Iterable[str],
        *,
        kind: Kind,
        vocabulary: int = 500,
        byte_fallback: bool = True,
        coverage: float = 1.0,
        unknown: bool = False,
    ) -> Tokenizer:
        """The same texts in the same order give the same tokenizer.

        unigram, bpe: at most `vocabulary` tokens, blank, unknown and (with `byte_fallback`) 256 bytes among them;
        fewer where the texts do not hold as many pieces. Characters that make up the rarest 1 - `coverage`
        of the texts are written in bytes, or are unknown without `byte_fallback`.
        characters: blank and every character of the texts, `vocabulary` is not used; other characters are
        refused by `encode`, or with `unknown` become a token of their own.
        Raises DataError: no text at all, a vocabulary too small for the texts' characters.
        """
        normal = [text for text in map(_normalise, texts) if text]
        if not normal:
            raise DataError("no text to train a tokenizer on: the transcripts are empty")
        if kind not in get_args(Kind):
            raise DataError(f"tokenizer {kind!r}: use {', '.join(get_args(Kind))}")
        if kind == "characters":
            alphabet = sorted({character for text in normal for character in text.replace(" ", SPACE)})
            pieces = [BLANK, *([UNKNOWN] if unknown else []), *alphabet]
            return Tokenizer(kind, json.dumps({"characters": pieces}, ensure_ascii=False).encode())
        try:
            return Tokenizer(
                kind, _train_sentencepiece(normal, kind, vocabulary, byte_fallback, coverage, True)
            )
        except RuntimeError as error:
            if "too high" not in str(error):
                raise _training_error(error, vocabulary) from error
        # The hard limit comes first since with the soft one, unigram may end below a size that it could reach.
        return Tokenizer(kind, _train_sentencepiece(normal, kind, vocabulary, byte_fallback, coverage, False))

    @staticmethod
    def from_bytes(kind: Kind, data: bytes) -> Tokenizer:
        """What `to_bytes` gave, or any SentencePiece model whose token 0 is a blank. Raises BundleError."""
        if kind not in get_args(Kind):
            raise BundleError(f"tokenizer {kind!r}: use {', '.join(get_args(Kind))}")
        return Tokenizer(kind, data)

    def to_bytes(self) -> bytes:
        """A SentencePiece model, or for characters, JSON: {"characters": ["<blk>", ...]}."""
        return self._data

    @property
    def size(self) -> int:
        return len(self._pieces)

    def encode(self, text: str) -> list[int]:
        """Raises DataError for a character that the alphabet lacks."""
        normal = _normalise(text)
        if self._processor is None:
            return [self._number(character, text) for character in normal.replace(" ", SPACE)]
        tokens: list[int] = self._processor.encode(normal)
        if 0 in tokens:
            raise DataError(f"text {_excerpt(text)} spells the blank, {self._pieces[0]}: take it out")
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        """Bytes that make no character become U+FFFD; a last character that is not complete is left out."""
        builder = WordBuilder(self, frame_seconds=0.0)
        for token in tokens:
            builder.add(token, 0, 0.0)
        return builder.text

    def piece(self, token: int) -> str:
        """How a token is written in the vocabulary: "▁THE", "<0xC3>", "<blk>"."""
        self._check(token)
        return self._pieces[token]

    def __repr__(self) -> str:
        return f"Tokenizer({self.kind}, {self.size})"

    def _number(self, character: str, text: str) -> int:
        number = self._numbers.get(character, self._numbers.get(UNKNOWN))
        if number is None:
            raise DataError(
                f"character {character!r} (U+{ord(character):04X}) of the text {_excerpt(text)} is not in the "
                f"alphabet of {self.size - 1}; replace it, or train the tokenizer on texts that have it"
            )
        return number

    def _check(self, token: int) -> None:
        if not 0 <= token < self.size:
            raise ValueError(f"token {token} is not one of 0 to {self.size - 1}")

    def _text(self, number: int) -> str | int:
        """What a token adds to the text: characters, or a byte's number."""
        piece, processor = self._pieces[number], self._processor
        if piece == UNKNOWN or (processor is not None and processor.is_unknown(number)):
            return UNKNOWN_TEXT
        if processor is None:
            return "" if piece in UNWRITTEN else piece.replace(SPACE, " ")
        if piece in UNWRITTEN or processor.is_control(number) or processor.is_unused(number):
            return ""
        return int(piece[3:5], 16) if processor.is_byte(number) else piece.replace(SPACE, " ")


class WordBuilder:
    """Emissions of one stream -> its words so far, with work in proportion to the new emissions.

    A word starts with the first token that writes a part of it and ends a frame after its last, both moved by what
    `calibration` knows, but neither before the word before nor, the end, after the next one's start; a bare space
    belongs to no word. Bytes are held back until they make a character: what `words` and `text` show never takes a
    character back, but for U+FFFD where the bytes cannot make one.
    Times are stream-absolute: `offset` + frame * `frame_seconds`, to the millisecond; none is before `after`. A word's
    confidence is the geometric mean of its tokens' probabilities, calibrated.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        frame_seconds: float,
        offset: float = 0.0,
        calibration: Calibration = PLAIN,
        after: float | None = None,
    ) -> None:
        self._tokenizer, self._calibration = tokenizer, calibration
        self._frame_seconds, self._offset = frame_seconds, offset
        self._after = offset if after is None else after
        self._done: list[Word] = []
        self._heard: list[Heard] = []  # of those
        self._open: _OpenWord | None = None
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace")
        self._held: list[tuple[int, float]] = []  # frame and log-probability of the bytes in the decoder

    def push(self, emissions: Iterable[Emission]) -> None:
        """The stream's next tokens, in order of their frames."""
        for emission in emissions:
            self.add(emission.token, emission.frame, emission.log_probability)

    def add(self, token: int, frame: int, log_probability: float) -> None:
        """One emission. Raises ValueError for a token that the tokenizer lacks."""
        self._tokenizer._check(token)
        written = self._tokenizer._written[token]
        if written == "":
            return
        if isinstance(written, int):
            self._held.append((frame, log_probability))
            text = self._bytes.decode(bytes([written]))
            used = len(self._held) - len(self._bytes.getstate()[0])
            self._write(text.replace(SPACE, " "), self._held[:used])
            del self._held[:used]
            return
        if self._held:
            self._write(self._bytes.decode(b"", True), self._held)
            self._held.clear()
        self._write(written, [(frame, log_probability)])

    @property
    def words(self) -> tuple[Word, ...]:
        """All words so far; the last may still grow."""
        return (*self._done, self._word(self._open)) if self._open else tuple(self._done)

    @property
    def heard(self) -> tuple[Heard, ...]:
        """Of each of the words."""
        return (*self._heard, self._open.heard) if self._open else tuple(self._heard)

    @property
    def text(self) -> str:
        return join_words(word.text for word in self.words)

    def until(self, limit: float) -> tuple[Word, ...]:
        """All words so far, with no time beyond `limit` seconds, where the audio ends.

        Those emitted later, in the silence that flushes them, share its last frames.
        """
        found = self.words
        if not found or found[-1].end <= limit:
            return found
        previous, limited = self._after, []
        for word in found:
            start = min(word.start, max(previous, round(limit - self._frame_seconds, 3)))
            previous = max(start, min(word.end, limit))
            limited.append(replace(word, start=start, end=previous))
        return tuple(limited)

    def _write(self, text: str, tokens: Sequence[tuple[int, float]]) -> None:
        for part in _PARTS.findall(text):
            alone = re.fullmatch(IDEOGRAPH, part)  # a word by itself
            if alone or part.isspace():
                self._close()
            if part.isspace():
                continue
            if self._open is None:
                self._open = _OpenWord(tokens[0][0])
                self._end_last_word(self._seconds(tokens[0][0], self._calibration.start))
            self._open.add(part, tokens)
            if alone:
                self._close()

    def _close(self) -> None:
        if self._open:
            self._done.append(self._word(self._open))
            self._heard.append(self._open.heard)
        self._open = None

    def _end_last_word(self, start: float) -> None:
        if self._done and self._done[-1].end > start:
            self._done[-1] = replace(self._done[-1], end=start)

    def _word(self, word: _OpenWord) -> Word:
        confidence = self._calibration.confidence(word.heard)
        start = self._seconds(word.first, self._calibration.start)
        end = max(start, self._seconds(word.last + 1, self._calibration.end))
        return Word("".join(word.parts), start, end, confidence)

    def _seconds(self, frame: int, moved: float) -> float:
        return max(self._after, round(self._offset + frame * self._frame_seconds + moved, 3))


class _OpenWord:
    def __init__(self, frame: int) -> None:
        self.first = self.last = frame
        self.parts: list[str] = []
        self.tokens = 0
        self.log_probability = 0.0

    @property
    def heard(self) -> Heard:
        probability = math.exp(min(0.0, self.log_probability / self.tokens))
        return Heard(probability, self.tokens, max(1, self.last - self.first + 1))

    def add(self, part: str, tokens: Sequence[tuple[int, float]]) -> None:
        self.parts.append(part)
        self.last = tokens[-1][0]
        self.tokens += len(tokens)
        self.log_probability += sum(log_probability for _, log_probability in tokens)


def words(
    emissions: Iterable[Emission],
    tokenizer: Tokenizer,
    *,
    frame_seconds: float,
    duration: float | None = None,
    offset: float = 0.0,
    calibration: Calibration = PLAIN,
    after: float | None = None,
) -> list[Word]:
    """The words of one stream's emissions, as `WordBuilder` makes them: starts and ends in order, none overlapping.

    offset: seconds, when the first frame begins. duration: seconds of audio from there on; no time lies beyond it,
    though the model emits in the silence that flushes it, too. calibration, after: as of `WordBuilder`.
    """
    builder = WordBuilder(
        tokenizer, frame_seconds=frame_seconds, offset=offset, calibration=calibration, after=after
    )
    builder.push(emissions)
    if duration is None:
        return list(builder.words)
    return list(builder.until(offset + duration))


def _normalise(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"text {_excerpt(text)} is not valid Unicode ({error.reason}); mend its encoding"
        ) from error
    return " ".join(unicodedata.normalize("NFC", text).replace(SPACE, " ").split())


def _excerpt(text: str) -> str:
    return ascii(text) if len(text) <= 60 else ascii(text[:60]) + "..."


def _train_sentencepiece(
    texts: Sequence[str], kind: str, vocabulary: int, byte_fallback: bool, coverage: float, hard: bool
) -> bytes:
    model = io.BytesIO()
    longest = max(len(text.encode()) for text in texts)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type=kind,
        vocab_size=vocabulary,
        hard_vocab_limit=hard,
        byte_fallback=byte_fallback,
        character_coverage=coverage,
        normalization_rule_name="identity",
        max_sentence_length=longest + 10,  # longer ones would be left out, silently
        pad_id=0,
        pad_piece=BLANK,
        unk_id=1,
        unk_piece=UNKNOWN,
        bos_id=-1,
        eos_id=-1,
        num_threads=THREADS,
        minloglevel=2,
    )
    return model.getvalue()


def _training_error(error: RuntimeError, vocabulary: int) -> DataError:
    needed = re.search(r"required_chars\. \d+ vs (\d+)", str(error))
    if needed:
        return DataError(
            f"a vocabulary of {vocabulary} is too small: the characters of these texts alone need {needed[1]} tokens; "
            "raise it, lower `coverage`, or leave out `byte_fallback` (256 tokens)"
        )
    return DataError(
        f"no tokenizer could be trained on these texts with a vocabulary of {vocabulary}: {error}"
    )


def _read_sentencepiece(data: bytes) -> sentencepiece.SentencePieceProcessor:
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(data)
    except RuntimeError as error:
        raise BundleError("the tokenizer is damaged, or no SentencePiece model; copy it again") from error
    if not processor.is_control(0) and processor.id_to_piece(0) not in BLANKS:
        raise BundleError(
            f"the tokenizer's token 0 is {processor.id_to_piece(0)!r}, not a blank; train it with blank as token 0"
        )
    return processor


def _read_alphabet(data: bytes) -> list[str]:
    try:
        tree = json.loads(data)
        pieces = tree["characters"]
        sound = isinstance(pieces, list) and all(isinstance(p, str) and p for p in pieces)
        sound = sound and pieces[0] == BLANK and len(set(pieces)) == len(pieces)
    except (ValueError, TypeError, KeyError, IndexError):
        sound = False
    if not sound:
        raise BundleError(f'the alphabet is damaged: not {{"characters": ["{BLANK}", ...]}}; copy it again')
    return list(pieces)
