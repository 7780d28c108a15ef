"""The sentences that the English recipe has synthesised: normal form, shares, nothing of a test set."""

from __future__ import annotations

import gzip
import itertools
import json
import random
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "recipes" / "english"
sys.path.insert(0, str(FOLDER))  # the recipe's scripts import one another as they lie
import make_texts  # noqa: E402
import phrases  # noqa: E402
import texts  # noqa: E402

sys.path.remove(str(FOLDER))

NORMAL = re.compile(r"[A-Z']+( [A-Z']+)*")


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("Mr. Bennet's  well-known wife\u2014Kitty", "MISTER BENNET'S WELL KNOWN WIFE KITTY"),
        ("\u201cI don\u2019t,\u201d she said; 'never'", "I DON'T SHE SAID NEVER"),
        ("0 Zero cats, 21 dogs & 1205 mice", "ZERO ZERO CATS TWENTY ONE DOGS AND ONE THOUSAND TWO HUNDRED FIVE MICE"),
        ("caf\u00e9", ""),
        ("?!", ""),
    ],
)  # fmt: skip
def test_normal_form(written: str, normal: str) -> None:
    assert texts.normalise(written) == normal


def test_numbers_in_words() -> None:
    assert [phrases.say_number(n) for n in (0, 13, 20, 99, 100, 342, 1000)] == [
        "zero", "thirteen", "twenty", "ninety nine", "one hundred", "three hundred forty two", "one thousand",
    ]  # fmt: skip
    assert [phrases.say_ordinal(n) for n in (1, 12, 20, 21)] == [
        "first",
        "twelfth",
        "twentieth",
        "twenty first",
    ]


def test_a_thousand_phrases_of_every_kind_are_in_normal_form_and_nothing_is_left_to_fill_in() -> None:
    for kind in phrases.KINDS:
        said = {kind(random.Random(seed)) for seed in range(1000)}
        assert len(said) > 20, kind
        for text, spoken in said:
            assert NORMAL.fullmatch(" ".join(text.upper().replace(",", " ").split())), text
            assert "{" not in spoken, spoken


def test_letters_are_spoken_by_name_and_articles_are_not() -> None:
    assert texts.to_speech("A B C") == f"{phrases.spell('A')} B C"
    assert texts.to_speech("A CAT AND I") == "a cat and I"


def drawn(*, seed: int, count: int = 2000, forbidden: frozenset[str] = frozenset()) -> list[texts.Sentence]:
    of = {
        kind: [
            texts.Sentence(f"{kind.upper()} {'WORD ' * (n % 9)}X{'I' * n}".strip(), "", kind)
            for n in range(40)
        ]
        for kind in ("transcripts", "prose")
    }
    order = texts.sentences(of["transcripts"], of["prose"], forbidden, seed=seed)
    return list(itertools.islice(order, count))


def test_the_order_keeps_the_shares_and_depends_on_the_seed_alone() -> None:
    found = drawn(seed=3)
    assert found == drawn(seed=3)
    assert found != drawn(seed=4)
    seconds: Counter[str] = Counter()
    for sentence in found:
        seconds[sentence.kind] += sentence.seconds
    for kind, share in texts.SHARES.items():
        assert seconds[kind] / sum(seconds.values()) == pytest.approx(share, abs=0.02)


def test_what_a_test_set_says_never_comes() -> None:
    forbidden = frozenset(sentence.text for sentence in drawn(seed=3, count=500)[::3])
    assert not forbidden & {sentence.text for sentence in drawn(seed=3, forbidden=forbidden)}


def test_test_transcripts_are_found(tmp_path: Path) -> None:
    for name, content in {
        "an4/etc/an4_test.transcription": "<s> ENTER SIX </s> (an4-x)\n",
        "speechocean762/test/text": "0001\tWE CALL IT BEAR\n",
        "robotutor-stories/test.tsv": "file\ttext\na.opus\tThe cat sat.\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    with gzip.open(tmp_path / "dev.jsonl.gz", "wt") as manifest:
        manifest.write(json.dumps({"supervisions": [{"text": "HELLO THERE"}]}) + "\n")
    assert texts.read_forbidden(tmp_path, tmp_path) == {
        "ENTER SIX", "WE CALL IT BEAR", "THE CAT SAT", "HELLO THERE",
    }  # fmt: skip


def test_strings_of_an_r_file() -> None:
    data = b"junk" + b"".join(
        b"\x00\x04\x00\x09" + len(s).to_bytes(4, "big") + s for s in (b"one", b"", b"two")
    )
    assert texts.read_r_strings(data) == ["one", "", "two"]


def test_the_table_of_sentences_is_what_synthesis_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from asr.synthesis.corpus import read_texts

    table = tmp_path / "sentences.tsv"
    count = make_texts.write_sentences(table, tmp_path, tmp_path, hours=0.05, seed=1)
    found = read_texts(table, longest=14)
    assert len(found) == count > 20 and not [one.where for one in found if one.wrong]
    assert all(NORMAL.fullmatch(one.text) and one.spoken for one in found)
    speakers = {int(one.speaker or -1) for one in found}
    assert len(speakers) > 15 and not speakers & make_texts.HELD_OUT_SPEAKERS
