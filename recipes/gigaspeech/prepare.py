"""GigaSpeech (Chen et al. 2021): 10,000 hours of English audiobooks, podcasts and videos -> {train,dev,test}.jsonl.gz.

python recipes/gigaspeech/prepare.py CORPUS OUT [--part M]      or      asr prepare gigaspeech CORPUS OUT

Needs `pip install rill-asr[gigaspeech]`, which reads its 10 GB of JSON as a stream.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from lhotse.recipes.gigaspeech import prepare_gigaspeech

from asr.dataset.corpus import command_line, require, write_splits
from asr.dataset.lhotse_recipes import manifests_of, segments

PUNCTUATION = re.compile(r"\s*<(?:COMMA|PERIOD|QUESTIONMARK|EXCLAMATIONPOINT)>")
GARBAGE = re.compile(r"<(?:SIL|MUSIC|NOISE|OTHER)>")


def prepare(corpus: Path, out: Path, *, part: str = "XL") -> None:
    """Write GigaSpeech's cuts: train is PART (XS 10, S 250, M 1,000, L 2,500, XL 10,000 hours).

    CORPUS is the directory that holds GigaSpeech.json and audio/. Texts lose the names of punctuation marks; segments
    of music, noise or silence are left out.
    """
    require(corpus, "GigaSpeech.json", "audio", name="GigaSpeech")
    parts = {"train": part, "dev": "DEV", "test": "TEST"}
    with tempfile.TemporaryDirectory(dir=out.parent if out.parent.is_dir() else None) as folder:
        found = manifests_of("GigaSpeech", corpus, prepare_gigaspeech, folder, tuple(parts.values()))
        write_splits(
            {name: segments(found[one], text=words, language="en") for name, one in parts.items()}, out
        )


def words(text: str) -> str | None:
    """What is said; None of a segment that is no speech."""
    return None if GARBAGE.search(text) else " ".join(PUNCTUATION.sub("", text).split())


if __name__ == "__main__":
    command_line(prepare)
