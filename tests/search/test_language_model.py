"""N-gram models against their definition, one history at a time; their fusion against every text, scored by hand."""

from __future__ import annotations

import gzip
import importlib.util
import math
from pathlib import Path

import pytest
import torch

from asr.errors import ConfigError, DataError
from asr.language_model import load
from asr.language_model.spelling import Spelling, hashes
from asr.search.config import SearchConfig
from asr.tokenizer import Tokenizer
from tests.search.lattices import every_text, frames, head_of, search, text, tokenizer

CPU = torch.device("cpu")
LETTERS = tokenizer("ab▁")
WORDS = """\\data\\
ngram 1=6
ngram 2=4
ngram 3=2

\\1-grams:
-1.2 <unk> -0.1
-99 <s> -0.5
-0.9 </s>
-0.6 A -0.3
-0.8 B -0.2
-1.0 ab -0.4

\\2-grams:
-0.2 <s> A -0.15
-0.5 A B -0.25
-0.3 B A
-0.7 A ab -0.05

\\3-grams:
-0.1 <s> A B
-0.35 A B A

\\end\\
"""
TOKENS = WORDS.replace("A", "a").replace("B", "b").replace(" ab", " ▁")


def table(arpa: str) -> dict[tuple[str, ...], tuple[float, float]]:
    """n-gram -> log10 of its probability and its back-off weight."""
    found, length = {}, 0
    for line in arpa.splitlines():
        parts = line.split()
        if line.startswith("\\"):
            length = int(line[1]) if line[1].isdigit() else 0
        elif parts and length:
            gram = tuple(parts[1 : length + 1])
            found[gram] = (float(parts[0]), float(parts[length + 1]) if len(parts) > length + 1 else 0.0)
    return found


def by_hand(arpa: str, sentence: list[str]) -> list[float]:
    """Natural log-probability of each item after those before it (Katz 1987)."""
    grams = table(arpa)

    def score(history: tuple[str, ...], word: str) -> float:
        if (*history, word) in grams:
            return grams[*history, word][0]
        return grams.get(history, (0.0, 0.0))[1] + score(history[1:], word)

    known = [word if (word,) in grams else "<unk>" for word in sentence]
    said = ["<s>", *known]
    return [score(tuple(said[max(0, i - 2) : i]), said[i]) * math.log(10) for i in range(1, len(said))]


def tabs(arpa: str) -> str:
    """KenLM wants a tab on both sides of the words."""
    lines, length = [], 0
    for line in arpa.splitlines():
        parts = line.split()
        if line.startswith("\\"):
            length = int(line[1]) if line[1].isdigit() else 0
        elif parts and length:
            line = "\t".join([parts[0], " ".join(parts[1 : length + 1]), *parts[length + 1 :]])
        lines.append(line)
    return "\n".join(lines) + "\n"


SENTENCES = ["a b a", "a b ab", "b b b a", "ab a zz a b", "a ab b", "zz"]


def scores(model: object, items: list[int]) -> list[float]:
    history, found = model.start[None], []  # type: ignore[attr-defined]
    for item in items:
        score, history = model.score(history, torch.tensor([item]))  # type: ignore[attr-defined]
        found.append(float(score))
    return found


@pytest.mark.parametrize("zipped", [False, True])
def test_words(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / ("lm.arpa.gz" if zipped else "lm.arpa")
    path.write_bytes(gzip.compress(WORDS.encode()) if zipped else WORDS.encode())
    model = load(str(path), LETTERS, CPU)
    assert model.unit == "words"
    for sentence in SENTENCES:
        items = hashes(sentence.split()).tolist()
        # The model's words are in the case of the tokenizer, whatever that of the file.
        expected = by_hand(WORDS.replace("A", "a").replace("B", "b"), sentence.split())
        assert scores(model, items) == pytest.approx(expected)


def test_tokens(tmp_path: Path) -> None:
    path = tmp_path / "lm.arpa"
    path.write_text(TOKENS)
    model = load(str(path), LETTERS, CPU)
    assert model.unit == "tokens"
    for said in ("abab", "a▁ba", "bb▁▁a"):
        assert scores(model, LETTERS.encode(said.replace("▁", " "))) == pytest.approx(
            by_hand(TOKENS, list(" ".join(said.replace("▁", " ").split()).replace(" ", "▁")))
        )


@pytest.mark.skipif(importlib.util.find_spec("kenlm") is None, reason="kenlm is not installed")
def test_kenlm_says_the_same(tmp_path: Path) -> None:
    import kenlm

    from asr.language_model.ngram import KenLM

    path = tmp_path / "lm.arpa"
    path.write_text(tabs(WORDS.replace("A", "a").replace("B", "b")))
    ours = load(str(path), LETTERS, CPU)
    theirs = KenLM.__new__(KenLM)
    theirs.use(kenlm, kenlm.Model(str(path)), ("<unk>", "<s>", "</s>", "a", "b", "ab"), LETTERS, CPU)
    for sentence in SENTENCES:
        items = hashes(sentence.split()).tolist()
        assert scores(theirs, items) == pytest.approx(scores(ours, items), abs=1e-5)


def test_a_word_is_the_same_however_it_is_cut() -> None:
    model = Tokenizer.train(["HELLO HELL LOW YELLOW É"] * 5, kind="bpe", vocabulary=300)
    spelling = Spelling(model)
    pieces = {model.piece(i): i for i in range(model.size)}
    for cut in (["▁", "H", "E", "L", "L", "O"], ["▁H", "E", "L", "L", "O"], ["X", "▁HELL", "O"]):
        word = torch.tensor(7)
        for piece in cut:
            if piece in pieces:
                word = spelling.add(word, torch.tensor(pieces[piece]))
        if all(piece in pieces for piece in cut[-2:]):
            assert int(word) == int(hashes(["HELLO"]))
    word = torch.tensor(0)
    for token in model.encode("é"):
        word = spelling.add(word, torch.tensor(token))
    assert int(word) == int(hashes(["é"]))


@pytest.mark.parametrize("kind", ["ctc", "transducer", "tdt"])
@pytest.mark.parametrize("unit", ["words", "tokens", "lodr"])
def test_fused_scores_are_exact(tmp_path: Path, kind: str, unit: str) -> None:
    path = tmp_path / "lm.arpa"
    arpa = (WORDS if unit == "words" else TOKENS).replace("A", "a").replace("B", "b")
    path.write_text(arpa)
    options = {
        "words": {"lm": str(path), "lm_scale": 0.7, "word_bonus": 0.4},
        "tokens": {"lm": str(path), "lm_scale": 0.7},
    }
    config = SearchConfig(kind="beam", beam=64, **options.get(unit, {"lodr": str(path), "lodr_scale": 0.2}))  # type: ignore[arg-type]
    head, y = head_of(kind, 4, seed=2), frames((1, 3), 2)
    expected = {}
    for said, score in every_text(head, y[0]).items():
        if unit == "words":
            words = LETTERS.decode(said).split()
            expected[said] = score + sum(0.7 * s + 0.4 for s in by_hand(arpa, words))
        else:
            scale = 0.7 if unit == "tokens" else -0.2
            expected[said] = score + scale * sum(by_hand(arpa, [LETTERS.piece(t) for t in said]))
    (found,) = search(head, y, torch.tensor([3]), [config], LETTERS)
    assert {text(h): h.score for h in found} == pytest.approx(expected)
    (split,) = search(head, y, torch.tensor([3]), [config], LETTERS, cuts=(1, 2))
    assert [(text(h), pytest.approx(h.score)) for h in split] == [(text(h), h.score) for h in found]


def test_a_model_without_unknown_words(tmp_path: Path) -> None:
    path = tmp_path / "lm.arpa"
    path.write_text("\n".join(line for line in WORDS.splitlines() if "<unk>" not in line))
    assert scores(load(str(path), LETTERS, CPU), hashes(["zz"]).tolist()) == pytest.approx(
        [(-0.5 - 7) * math.log(10)]
    )


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"nothing", "no ARPA file"),
        (b"\\1-grams:\n-1 a b c\n", "line 2: 1 words with their numbers"),
        (b"\\1-grams:\nx a\n", "line 2: could not convert"),
        (b"\\1-grams:\n-1 a\n\n\\2-grams:\n-1 a c\n", "line 5: 'c' in"),
        (b"\\1-grams:\n-1 \xff\n", "not a readable ARPA"),
    ],
)
def test_damaged_files(tmp_path: Path, content: bytes, error: str) -> None:
    path = tmp_path / "lm.arpa"
    path.write_bytes(content)
    with pytest.raises(DataError, match=error):
        load(str(path), LETTERS, CPU)


def test_what_greedy_search_cannot_do() -> None:
    with pytest.raises(ConfigError, match="set search.kind to beam"):
        SearchConfig(lm="x.arpa")
    with pytest.raises(DataError, match="cannot be read"):
        load("/no/such/lm.arpa", LETTERS, CPU)
