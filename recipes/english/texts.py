"""Sentences to synthesise: transcripts of training parts, everyday phrases and prose, in one balanced order.

Every sentence comes twice: `text` in the recipes' normal form (A-Z, apostrophe, single spaces), and `spoken`,
what the voice is given, which keeps case and punctuation because they shape the prosody. Nothing that a test
set says is ever yielded: `read_forbidden` collects the test transcripts of the corpora found and `sentences`
drops them.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from phrases import phrase, say_number, spell

__all__ = ["Sentence", "normalise", "read_forbidden", "read_prose", "read_transcripts", "sentences"]

SHARES = {"transcripts": 0.35, "everyday": 0.25, "prose": 0.40}
"""Parts of the speech by (estimated) duration."""

PROSE_WORDS = (5, 25)
"""Shorter ones are mostly scraps of WordNet's ("a deft waiter"); short speech comes from the other kinds."""

CHARACTERS_PER_SECOND = 15.0
SENTENCE_OVERHEAD_SECONDS = 0.8
LETTER_SECONDS = 0.35

ABBREVIATIONS = {
    "Mr.": "Mister", "Mrs.": "Missus", "Dr.": "Doctor", "St.": "Saint", "&": "and", "etc.": "et cetera",
}  # fmt: skip


@dataclass(frozen=True)
class Sentence:
    """`text` is the transcript in normal form, `spoken` the voice's input, `kind` a key of `SHARES`."""

    text: str
    spoken: str
    kind: str

    @property
    def seconds(self) -> float:
        """Expected duration: exact enough to keep the shares, and known before the speech is made."""
        letters = sum(len(word) == 1 for word in self.text.split())
        return SENTENCE_OVERHEAD_SECONDS + letters * LETTER_SECONDS + len(self.text) / CHARACTERS_PER_SECOND


def normalise(text: str) -> str:
    """Normal form: A-Z, apostrophe and single spaces; numbers in words; '' if anything else remains."""
    for short, long in ABBREVIATIONS.items():
        text = text.replace(short, long)
    text = text.replace("\u2019", "'").replace("\u2018", "'")
    text = re.sub(r"\d+", lambda match: f" {say_number(int(match.group()))} ", text)
    text = re.sub(r"[-\u2013\u2014_/,.;:!?\"\u201c\u201d()\[\]]", " ", text).upper()
    text = " ".join(word for word in (word.strip("'") for word in text.split()) if word)
    return text if re.fullmatch(r"[A-Z' ]+", text) else ""


def to_speech(text: str) -> str:
    """What to give the voice for a transcript in normal form: lower case, letters by their names."""
    words = text.split()
    is_letter = [len(word) == 1 and word not in "AI" for word in words]
    spoken = []
    for index, word in enumerate(words):
        beside = is_letter[max(0, index - 1) : index + 2]
        if len(word) == 1 and word in "AI" and any(beside):
            spoken.append(spell(word))
        elif is_letter[index] or word == "I" or word.startswith("I'"):
            spoken.append(word[0] + word[1:].lower())
        else:
            spoken.append(word.lower())
    return " ".join(spoken)


def read_transcripts(corpora: Path) -> list[Sentence]:
    """Train transcripts of those of robotutor-stories, speechocean762, LibriSpeech that `corpora` holds."""
    found: dict[str, str] = {}
    stories = corpora / "robotutor-stories" / "train.tsv"
    if stories.exists():
        for line in stories.read_text().splitlines()[1:]:
            story = line.split("\t")[1]
            # Capitals ("STIR") and letters ("o-n-l-y") would be read as something else than what was said.
            as_written = not story.isupper() and not re.search(r"\b\w-\w\b", story)
            found.setdefault(normalise(story), story if as_written else to_speech(normalise(story)))
    for line in read_lines(corpora / "speechocean762" / "train" / "text"):
        text = normalise(line.split("\t", 1)[1])
        found.setdefault(text, to_speech(text))
    for path in sorted(corpora.glob("LibriSpeech/train-*/*/*/*.trans.txt")):
        for line in read_lines(path):
            # Whole LibriSpeech utterances last up to 17 s: shorter stretches keep within the length limit.
            words = line.split()[1:]
            for start in range(0, len(words), 20):
                text = " ".join(words[start : start + 20])
                found.setdefault(text, to_speech(text))
    found.pop("", None)
    return [Sentence(text, spoken, "transcripts") for text, spoken in found.items()]


def read_lines(path: Path) -> list[str]:
    """Lines of a text file; none if there is no such file."""
    return path.read_text().splitlines() if path.exists() else []


def read_forbidden(corpora: Path, embedded: Path | None = None) -> frozenset[str]:
    """Test transcripts, in normal form, of AN4, speechocean762, robotutor-stories and the embedded corpus."""
    an4 = read_lines(corpora / "an4/etc/an4_test.transcription")
    texts = [re.sub(r"\(.*?\)|</?s>", " ", line) for line in an4]
    texts += [line.split("\t", 1)[1] for line in read_lines(corpora / "speechocean762/test/text")]
    texts += [line.split("\t")[1] for line in read_lines(corpora / "robotutor-stories/test.tsv")[1:]]
    for split in ("dev", "test"):
        manifest = embedded / f"{split}.jsonl.gz" if embedded else None
        if manifest is not None and manifest.exists():
            with gzip.open(manifest, "rt") as lines:
                texts += [json.loads(line)["supervisions"][0]["text"] for line in lines]
    return frozenset(normalise(text) for text in texts) - {""}


def read_prose(packages: Path) -> list[Sentence]:
    """WordNet's example sentences and Jane Austen's novels, from unpacked Debian packages.

    `packages` holds `wordnet-base` and `r-cran-janeaustenr`, each unpacked to a folder of its name.
    """
    prose = [*wordnet_examples(packages / "wordnet-base"), *austen_sentences(packages / "r-cran-janeaustenr")]
    unique = {normalise(text): text for text in prose if is_plain(text)}
    fewest, most = PROSE_WORDS
    return [
        Sentence(text, spoken, "prose")
        for text, spoken in unique.items()
        if fewest <= len(text.split()) <= most
    ]


def is_plain(text: str) -> bool:
    """Whether the voice will read `text` as its normal form says: no acronyms, initials or figures."""
    return not re.search(r"[A-Z]{2}|\b[B-HJ-Z]\.|[^A-Za-z ,.;:!?'\"\-()\u2019\u2014]", text)


def wordnet_examples(package: Path) -> Iterator[str]:
    """Quoted examples of WordNet 3.0's glosses (Princeton's licence: free to use, copy and distribute)."""
    for part in ("noun", "verb", "adj", "adv"):
        for line in read_lines(package / f"usr/share/wordnet/data.{part}"):
            yield from re.findall(r'"([^"]+)"', line.partition(" | ")[2])


def austen_sentences(package: Path) -> Iterator[str]:
    """Sentences of the novels (public domain; the package is MIT), without Sense and Sensibility.

    That book is left out because the embedded test recordings are read from it. The R database is a row of
    zlib streams, each after its inflated length (4 bytes); inside, R's XDR serialisation writes a string as
    00 04 00 09, length, bytes.
    """
    path = package / "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
    rest = path.read_bytes() if path.exists() else b""
    while rest:
        stream = zlib.decompressobj()
        lines = read_r_strings(stream.decompress(rest[4:]))
        rest = stream.unused_data
        if any("SENSE AND SENSIBILITY" in line.upper() for line in lines[:20]):
            continue
        for paragraph in "\n".join(lines).split("\n\n"):
            text = " ".join(paragraph.replace("_", "").split())
            text = re.sub(r"\b(Mr|Mrs|Dr|St)\.", lambda match: ABBREVIATIONS[match.group()], text)
            for sentence in re.split(r"(?<=[.!?])[\"']? +(?=[\"'A-Z])|; |--+", text):
                yield sentence.strip(" \"'")


def read_r_strings(data: bytes) -> list[str]:
    """Every string of an XDR-serialised R character vector, in order."""
    mark, strings, offset = b"\x00\x04\x00\x09", [], 0
    while (offset := data.find(mark, offset)) >= 0:
        (length,) = struct.unpack_from(">i", data, offset + 4)
        strings.append(data[offset + 8 : offset + 8 + max(0, length)].decode("utf-8"))
        offset += 8 + max(0, length)
    return strings


def sentences(
    transcripts: list[Sentence], prose: list[Sentence], forbidden: frozenset[str], *, seed: int
) -> Iterator[Sentence]:
    """An endless, reproducible order in which every prefix holds the kinds in their `SHARES`.

    Transcripts and prose come without replacement, reshuffled when they run out; everyday phrases are made as
    needed.
    A kind with nothing to give (a corpus that is not there) leaves its share to the others.
    """
    rng = random.Random(seed)
    stock = {
        "transcripts": [sentence for sentence in transcripts if sentence.text not in forbidden],
        "prose": [sentence for sentence in prose if sentence.text not in forbidden],
    }
    kinds = [kind for kind in SHARES if kind == "everyday" or stock[kind]]
    waiting: dict[str, list[Sentence]] = {kind: [] for kind in stock}
    given = dict.fromkeys(kinds, 0.0)
    while True:
        kind = min(kinds, key=lambda each: given[each] / SHARES[each])
        if kind == "everyday":
            sentence = Sentence(*phrase(rng), kind)
            if sentence.text in forbidden:
                continue
        else:
            if not waiting[kind]:
                waiting[kind] = rng.sample(stock[kind], len(stock[kind]))
            sentence = waiting[kind].pop()
        given[kind] += sentence.seconds
        yield sentence
