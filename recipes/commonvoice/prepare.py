"""Common Voice (Ardila et al. 2020), any of its languages -> {train,dev,test}.jsonl.gz.

python recipes/commonvoice/prepare.py CORPUS OUT [--language de]      or      asr prepare commonvoice CORPUS OUT
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lhotse import CutSet

from asr.dataset.corpus import command_line, require, to_cuts, write_splits
from asr.dataset.sources import from_table
from asr.errors import DataError
from asr.text import normalizer

WORDS = normalizer(["lower", "punctuation"])


def prepare(corpus: Path, out: Path, *, language: str = "", skip_bad: bool = False) -> None:
    """Write one language's cuts, in its own three parts: lower case, without punctuation.

    CORPUS is a release (cv-corpus-...), which holds a folder for each language, or one of these folders. Its tables are
    read here and not by Lhotse, whose recipe passes over clips that are missing.
    """
    folder = corpus if (corpus / "clips").is_dir() else corpus / (language or only_language(corpus))
    parts = ("train", "dev", "test")
    require(folder, "clips", *(f"{part}.tsv" for part in parts), name="Common Voice")
    write_splits({part: read_part(folder, part, skip_bad=skip_bad) for part in parts}, out)


def only_language(corpus: Path) -> str:
    """The language of a release with a single one.

    Raises:
        DataError: there is none, or a choice.
    """
    found = sorted(path.parent.name for path in corpus.glob("*/clips"))
    if len(found) != 1:
        raise DataError(
            f"{corpus}: {'choose with --language: ' + ', '.join(found) if found else 'no LANGUAGE/clips is in it'}"
        )
    return found[0]


def read_part(folder: Path, part: str, *, skip_bad: bool) -> CutSet:
    """One part's cuts; sentences without a word are left out."""
    rows = from_table(folder / f"{part}.tsv", root=folder / "clips")
    spoken = [replace(row, text=text) for row in rows if (text := WORDS(row.text))]
    return to_cuts(spoken, language=folder.name, skip_bad=skip_bad)


if __name__ == "__main__":
    command_line(prepare)
