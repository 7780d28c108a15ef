"""Tokenizers there and back, and words with times from tokens as they come."""

from __future__ import annotations

import copy
import io
import json
import math
import pickle
import unicodedata
from functools import cache

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.calibration import Calibration
from asr.errors import BundleError, DataError
from asr.heads import Emission
from asr.text import join_words, split_words
from asr.tokenizer import Kind, Tokenizer, WordBuilder, words

TEXTS = [
    "the quick brown fox jumps over the lazy dog",
    "she sells sea shells by the sea shore",
    "THE FOX'S DEN IS BY THE SHORE",
    "naïve café größe",
    "日本語の音声 です",
] * 3
KINDS: tuple[Kind, ...] = ("unigram", "bpe", "characters")
FRAME = 0.04


@cache
def tokenizer(kind: Kind) -> Tokenizer:
    return Tokenizer.train(TEXTS, kind=kind, vocabulary=340)


def normal(text: str) -> str:
    return join_words(split_words(unicodedata.normalize("NFC", text).replace("▁", " ")))


def emissions(tokens: list[int], every: int = 3, log_probability: float = -0.1) -> list[Emission]:
    return [Emission(token, every * i, log_probability) for i, token in enumerate(tokens)]


unicode_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


# --- there and back --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_texts_come_back(kind: Kind) -> None:
    made = tokenizer(kind)
    for text in TEXTS:
        tokens = made.encode(text)
        assert tokens and all(0 < token < made.size for token in tokens)
        assert made.decode(tokens) == normal(text)
    assert made.encode("") == made.encode("  ") == []
    assert made.decode([]) == ""


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@settings(deadline=None)
@given(text=unicode_text)
def test_any_text_comes_back_through_bytes(kind: Kind, text: str) -> None:
    made = tokenizer(kind)
    assert made.decode(made.encode(text)) == normal(text)


def test_pieces() -> None:
    made = tokenizer("unigram")
    assert made.piece(0) == "<blk>"
    assert made.piece(1) == "<unk>"
    assert [made.piece(i) for i in range(2, 258)] == [f"<0x{i:02X}>" for i in range(256)]
    assert repr(made) == f"Tokenizer(unigram, {made.size})"
    assert "".join(made.piece(t) for t in made.encode("the dog")) == "▁the▁dog"
    for token in (-1, made.size):
        with pytest.raises(ValueError, match=f"token {token} is not one of 0 to {made.size - 1}"):
            made.piece(token)
        with pytest.raises(ValueError, match="is not one of"):
            made.decode([token])


@pytest.mark.parametrize("kind", KINDS)
def test_stored_and_loaded(kind: Kind) -> None:
    made = tokenizer(kind)
    for again in (
        Tokenizer.from_bytes(kind, made.to_bytes()),
        pickle.loads(pickle.dumps(made)),
        copy.deepcopy(made),
    ):
        assert (again.kind, again.size, again.to_bytes()) == (kind, made.size, made.to_bytes())
        assert again.encode(TEXTS[0]) == made.encode(TEXTS[0])


@pytest.mark.parametrize("kind", KINDS)
def test_training_is_deterministic(kind: Kind) -> None:
    again = Tokenizer.train(iter(TEXTS), kind=kind, vocabulary=340)
    assert again.to_bytes() == tokenizer(kind).to_bytes()


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@pytest.mark.parametrize(
    "texts", [["a"], ["yes", "no", "yes", ""], ["hello world"] * 5, ["x" * 10_000, "x y"]]
)
def test_tiny_corpora_give_smaller_vocabularies(kind: Kind, texts: list[str]) -> None:
    made = Tokenizer.train(texts, kind=kind, vocabulary=5000)
    assert 258 < made.size < 5000
    for text in texts:
        assert made.decode(made.encode(text)) == text


def test_long_texts_are_not_left_out() -> None:
    made = Tokenizer.train(["word " * 5000 + "Q"], kind="bpe", vocabulary=300)
    assert made.encode("Q") == [made.encode("word Q")[-1]] or "Q" in made.piece(made.encode("Q")[-1])
    assert not made.piece(made.encode("Q")[-1]).startswith("<0x")


def test_without_bytes_the_unknown_is_shown() -> None:
    made = Tokenizer.train(TEXTS[:2], kind="unigram", vocabulary=60, byte_fallback=False)
    assert made.size <= 60
    assert made.decode(made.encode("the Ω dog")) == "the ⁇ dog"


def test_vocabularies_that_cannot_be() -> None:
    for kind in ("unigram", "bpe"):
        with pytest.raises(DataError, match=r"vocabulary of 100 is too small.*need \d+ tokens"):
            Tokenizer.train(TEXTS, kind=kind, vocabulary=100)
    for kind in KINDS:
        with pytest.raises(DataError, match="no text"):
            Tokenizer.train(["", "  "], kind=kind, vocabulary=300)
    with pytest.raises(DataError, match="use unigram, bpe, characters"):
        Tokenizer.train(TEXTS, kind="word")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="vocabulary of -1"):
        Tokenizer.train(TEXTS, kind="bpe", vocabulary=-1)


def test_text_that_is_no_unicode() -> None:
    for attempt in (lambda t: tokenizer("bpe").encode(t), lambda t: Tokenizer.train([t], kind="bpe")):
        with pytest.raises(DataError, match="not valid Unicode"):
            attempt("half a pair \ud83d")


def test_coverage_leaves_rare_characters_to_the_bytes() -> None:
    texts = ["abc " * 200, "Ω"]
    made = Tokenizer.train(texts, kind="bpe", vocabulary=280, coverage=0.99)
    assert made.decode(made.encode("Ω")) == "Ω"
    assert all(made.piece(t).startswith("<0x") or made.piece(t) == "▁" for t in made.encode("Ω"))


# --- characters ------------------------------------------------------------------------------


def test_characters() -> None:
    made = Tokenizer.train(["ab ba", "c"], kind="characters", vocabulary=1)
    assert json.loads(made.to_bytes()) == {"characters": ["<blk>", "a", "b", "c", "▁"]}
    assert made.encode("a  c") == [1, 4, 3]
    assert made.decode([1, 4, 3, 0, 4]) == "a c"
    with pytest.raises(
        DataError, match=r"character 'é' \(U\+00E9\) of the text 'ac\\xe9' is not in the alphabet"
    ):
        made.encode("acé")


def test_unknown_characters_where_they_are_permitted() -> None:
    made = Tokenizer.train(["ab"], kind="characters", unknown=True)
    assert made.piece(1) == "<unk>"
    assert made.encode("axb") == [2, 1, 3]
    assert made.decode([2, 1, 3]) == "a⁇b"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b'{"characters": []}',
        b'{"characters": ["a"]}',
        b'{"characters": ["<blk>", "a", "a"]}',
        b'{"characters": ["<blk>", ""]}',
        b'{"characters": ["<blk>", 1]}',
        b'{"characters": ["<blk>", "a"',
    ],
)
def test_damaged_alphabets(data: bytes) -> None:
    with pytest.raises(BundleError, match="alphabet is damaged"):
        Tokenizer.from_bytes("characters", data)


def test_damaged_models() -> None:
    good = tokenizer("bpe").to_bytes()
    for data in (b"", b"garbage", good[: len(good) // 2 + 1]):
        with pytest.raises(BundleError, match="tokenizer is damaged"):
            Tokenizer.from_bytes("bpe", data)
    with pytest.raises(BundleError, match="use unigram, bpe, characters"):
        Tokenizer.from_bytes("words", good)  # type: ignore[arg-type]


def trained_elsewhere(**options: object) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_writer=model,
        model_type="unigram",
        vocab_size=80,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    return model.getvalue()


def test_models_of_icefall() -> None:
    """Its blank is "user-defined", so that a text can spell it; <sos/eos> is never written."""
    data = trained_elsewhere(user_defined_symbols=["<blk>", "<sos/eos>"], unk_id=2, bos_id=-1, eos_id=-1)
    made = Tokenizer.from_bytes("unigram", data)
    assert [made.piece(i) for i in range(3)] == ["<blk>", "<sos/eos>", "<unk>"]
    assert made.decode([0, 1, *made.encode("the dog"), 1]) == "the dog"
    with pytest.raises(DataError, match="spells the blank"):
        made.encode("the <blk> dog")


def test_models_without_blank_are_refused() -> None:
    with pytest.raises(BundleError, match="token 0 is '<unk>', not a blank"):
        Tokenizer.from_bytes("unigram", trained_elsewhere())


# --- words -----------------------------------------------------------------------------------


def test_words_have_times_and_confidence() -> None:
    made = Tokenizer.train(["ab ba"], kind="characters")
    a, b, space = made.encode("ab a")[0], made.encode("b")[0], made.encode("a a")[1]
    found = words(
        [
            Emission(a, 5, math.log(0.5)),
            Emission(b, 7, math.log(0.125)),
            Emission(space, 8, -9.0),
            Emission(b, 10, 0.0),
        ],
        made,
        frame_seconds=FRAME,
    )
    assert [(w.text, w.start, w.end) for w in found] == [("ab", 0.2, 0.32), ("b", 0.4, 0.44)]
    assert [w.confidence for w in found] == pytest.approx([0.25, 1.0])
    later = words([Emission(a, 5, 0.0)], made, frame_seconds=FRAME, offset=100.0)
    assert (later[0].start, later[0].end) == (100.2, 100.24)
    assert words([], made, frame_seconds=FRAME) == []


def test_each_ideograph_is_a_word() -> None:
    tokenizer = Tokenizer.train(["我爱你 rill"], kind="characters")
    emissions = [Emission(token, 3 * i, -0.1) for i, token in enumerate(tokenizer.encode("我爱 rill 你"))]
    found = words(emissions, tokenizer, frame_seconds=0.04)
    assert [word.text for word in found] == ["我", "爱", "rill", "你"]
    assert [word.start for word in found] == [0.0, 0.12, 0.36, 0.96]
    builder = WordBuilder(tokenizer, frame_seconds=0.04)
    builder.push(emissions)
    assert builder.text == "我爱 rill 你"


def test_a_word_ends_where_the_next_begins() -> None:
    made = tokenizer("unigram")
    found = words([Emission(t, 4, -0.1) for t in made.encode("the dog")], made, frame_seconds=FRAME)
    assert [(w.text, w.start, w.end) for w in found] == [("the", 0.16, 0.16), ("dog", 0.16, 0.2)]


def test_nothing_lies_beyond_the_audio() -> None:
    made = Tokenizer.train(["ab"], kind="characters")
    a = made.encode("a")[0]
    flushed = words([Emission(a, 20, 0.0), Emission(a, 27, 0.0)], made, frame_seconds=FRAME, duration=1.0)
    assert [(w.start, w.end) for w in flushed] == [(0.8, 1.0)]
    late = words([Emission(a, 30, 0.0)], made, frame_seconds=FRAME, duration=1.0)
    assert [(w.start, w.end) for w in late] == [(0.96, 1.0)]
    moved = words([Emission(a, 30, 0.0)], made, frame_seconds=FRAME, duration=1.0, offset=50.0)
    assert [(w.start, w.end) for w in moved] == [(50.96, 51.0)]


def test_what_is_known_moves_words_and_not_into_one_another() -> None:
    made = tokenizer("characters")
    known = Calibration(head="ctc", start=-0.1, end=0.2)
    stream = [Emission(t, f, -0.1) for t, f in zip(made.encode("a b a"), (1, 4, 5, 30, 31), strict=True)]
    found = words(stream, made, frame_seconds=FRAME, duration=1.4, calibration=known)
    assert [(w.start, w.end) for w in found] == [(0.0, 0.1), (0.1, 0.44), (1.14, 1.4)]
    after = words(stream[2:], made, frame_seconds=FRAME, calibration=known, after=0.16)
    assert [(w.start, w.end) for w in after] == [(0.16, 0.44), (1.14, 1.48)]


def byte_tokens(made: Tokenizer, data: bytes) -> list[int]:
    return [2 + byte for byte in data]


def test_half_a_character_is_never_shown() -> None:
    made = tokenizer("unigram")
    the = made.encode("the")
    tokens = [*the, *byte_tokens(made, "é😀".encode())]
    shown = [made.decode(tokens[: i + 1]) for i in range(len(the) - 1, len(tokens))]
    assert shown == ["the", "the", "theé", "theé", "theé", "theé", "theé😀"]


def test_bytes_that_can_make_no_character_are_replaced() -> None:
    made = tokenizer("unigram")
    dog = made.encode("dog")
    assert made.decode([*byte_tokens(made, b"\xc3"), *dog]) == "\ufffd dog"
    assert made.decode(byte_tokens(made, b"\xff")) == "\ufffd"
    assert made.decode(byte_tokens(made, b"\xc3\xc3\xa9")) == "\ufffdé"
    assert made.decode([*byte_tokens(made, b"\xf0\x9f\x98"), *dog]) == "\ufffd dog"
    # The blank writes nothing, so it parts nothing.
    assert made.decode([2 + 0xC3, 0, 2 + 0xA9]) == "é"


def test_bytes_may_be_spaces() -> None:
    made = tokenizer("unigram")
    assert made.decode(byte_tokens(made, b" a \n b ")) == "a b"


def test_times_of_a_character_made_of_bytes() -> None:
    made = tokenizer("unigram")
    builder = WordBuilder(made, frame_seconds=FRAME)
    first, second = byte_tokens(made, "é".encode())
    builder.push([Emission(first, 5, math.log(0.5))])
    assert builder.words == ()
    builder.push([Emission(second, 9, math.log(0.5))])
    assert [(w.text, w.start, w.end) for w in builder.words] == [("é", 0.2, 0.4)]
    assert builder.words[0].confidence == pytest.approx(0.5)


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@settings(deadline=None)
@given(text=unicode_text, every=st.integers(0, 5))
def test_partials_only_ever_grow(kind: Kind, text: str, every: int) -> None:
    """Each partial is a beginning of the final text, and holds no half character."""
    made = tokenizer(kind)
    text = text.replace("\ufffd", "?")
    builder = WordBuilder(made, frame_seconds=FRAME)
    for emission in emissions(made.encode(text), every):
        builder.push([emission])
        assert normal(text).startswith(builder.text)
        assert "\ufffd" not in builder.text
    assert builder.text == normal(text)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)
@given(
    data=st.data(),
    duration=st.none() | st.floats(0, 20),
    offset=st.sampled_from([0.0, 3600.5]),
    moved=st.sampled_from([(0.0, 0.0), (-0.06, 0.27), (-0.3, -0.1), (0.2, -0.2)]),
)
def test_any_tokens_give_words_in_order(
    kind: Kind, data: st.DataObject, duration: float | None, offset: float, moved: tuple[float, float]
) -> None:
    calibration = Calibration(head="ctc", temperature=2.0, bias=-0.5, start=moved[0], end=moved[1])
    made = tokenizer(kind)
    tokens = data.draw(st.lists(st.integers(0, made.size - 1), max_size=40))
    frames = sorted(data.draw(st.lists(st.integers(0, 500), min_size=len(tokens), max_size=len(tokens))))
    stream = [Emission(t, f, -data.draw(st.floats(0, 5))) for t, f in zip(tokens, frames, strict=True)]
    found = words(
        stream, made, frame_seconds=FRAME, duration=duration, offset=offset, calibration=calibration
    )
    assert made.decode(tokens) == join_words(w.text for w in found)
    time = offset
    for word in found:
        assert word.text and not any(c.isspace() for c in word.text)
        assert time <= word.start <= word.end
        assert 0 < word.confidence <= 1
        time = word.end
    assert duration is None or time <= offset + duration
    # However the emissions are cut, the words are the same.
    cut = data.draw(st.integers(0, len(stream)))
    builder = WordBuilder(made, frame_seconds=FRAME, offset=offset, calibration=calibration)
    builder.push(stream[:cut])
    early = builder.words
    builder.push(stream[cut:])
    assert duration is not None or list(builder.words) == found
    assert [w.text for w in builder.words][: max(0, len(early) - 1)] == [w.text for w in early[:-1]]


def test_work_is_in_proportion_to_what_is_new() -> None:
    """Words that are done are not built again."""
    made = tokenizer("unigram")
    builder = WordBuilder(made, frame_seconds=FRAME)
    builder.push(emissions(made.encode("the dog the fox") * 50))
    before = builder.words
    builder.push(emissions(made.encode("den"))[:1])
    assert all(a is b for a, b in zip(before[:-2], builder.words, strict=False))
