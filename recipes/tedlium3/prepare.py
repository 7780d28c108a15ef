"""TED-LIUM 3 (Hernandez et al. 2018; OpenSLR 51): 452 hours of TED talks -> {train,dev,test}.jsonl.gz.

python recipes/tedlium3/prepare.py CORPUS OUT      or      asr prepare tedlium3 CORPUS OUT
"""

from __future__ import annotations

from pathlib import Path

from lhotse.recipes.tedlium import prepare_tedlium
from lhotse.recipes.utils import normalize_text_tedlium

from asr.dataset.corpus import command_line, require, write_splits
from asr.dataset.lhotse_recipes import manifests_of, segments


def prepare(corpus: Path, out: Path) -> None:
    """Write TED-LIUM's cuts in its "legacy" parts, on which results are published, texts as Kaldi's recipe has them.

    CORPUS is the directory TEDLIUM_release-3, which holds legacy/.
    """
    parts = ("train", "dev", "test")
    require(
        corpus, *(f"legacy/{part}/{kind}" for part in parts for kind in ("sph", "stm")), name="TED-LIUM 3"
    )
    found = manifests_of("TED-LIUM 3", corpus, prepare_tedlium)
    write_splits({part: segments(found[part], text=words, language="en") for part in parts}, out)


def words(text: str) -> str:
    """Without noises and unknown words, "they 're" as one word."""
    return " ".join(normalize_text_tedlium(text, "kaldi").split())


if __name__ == "__main__":
    command_line(prepare)
