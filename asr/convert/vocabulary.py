"""The peers' vocabularies -> a tokenizer whose token 0 is the blank and whose tokens are in the checkpoint's order."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from asr.errors import BundleError
from asr.tokenizer import Tokenizer

__all__ = ["characters", "pieces_of", "subwords"]

BLANK = "<blk>"
SPACES = (" ", "<space>", "<sp>")
PIECES = 1  # the field of SentencePiece's ModelProto that holds the pieces, one after another
CONTROL = b"\x18\x03"  # a piece's field 3, its type: 3 is control


def characters(tokens: Sequence[str]) -> Tokenizer:
    """Tokens in order, without the blank, of which one may be called a space."""
    names = [BLANK, *("▁" if token in SPACES else token for token in tokens)]
    return Tokenizer.from_bytes("characters", json.dumps({"characters": names}, ensure_ascii=False).encode())


def subwords(model: bytes, tokens: Sequence[str]) -> Tokenizer:
    """A SentencePiece model with these pieces, in this order, behind the blank; what it lacks is never written."""
    known, rest = _parse(model)
    fields = [known.get(token) or _piece(token) for token in tokens]
    return Tokenizer.from_bytes("unigram", b"".join([_piece(BLANK), *fields, rest]))


def pieces_of(model: bytes) -> list[str]:
    """The pieces of a SentencePiece model, in order. Raises BundleError if it is damaged."""
    return list(_parse(model)[0])


def _parse(model: bytes) -> tuple[dict[str, bytes], bytes]:
    """Each piece with its bytes in the model, and the bytes of everything else."""
    pieces, rest = {}, b""
    try:
        for number, raw, content in _fields(model):
            if number == PIECES:
                name = next(text for field, _, text in _fields(content) if field == 1)
                pieces[name.decode()] = raw
            else:
                rest += raw
    except (IndexError, StopIteration, UnicodeDecodeError, ValueError) as error:
        raise BundleError("the tokenizer is damaged, or no SentencePiece model; copy it again") from error
    return pieces, rest


def _piece(name: str) -> bytes:
    """A control piece: field 1 its text, field 2 a score of 0, field 3 its type."""
    text = name.encode()
    content = b"\x0a" + _varint(len(text)) + text + b"\x15" + bytes(4) + CONTROL
    return b"\x0a" + _varint(len(content)) + content


def _fields(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Number, all bytes, and content of each field of a protocol buffer."""
    at = 0
    while at < len(data):
        begin = at
        key, at = _read_varint(data, at)
        match key & 7:
            case 0:
                length, (_, at) = 0, _read_varint(data, at)
            case 1:
                length = 8
            case 2:
                length, at = _read_varint(data, at)
            case 5:
                length = 4
            case wire:
                raise ValueError(f"wire type {wire}")
        content, at = data[at : at + length], at + length
        if at > len(data):
            raise ValueError("truncated")
        yield key >> 3, data[begin:at], content


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
        shift += 7
