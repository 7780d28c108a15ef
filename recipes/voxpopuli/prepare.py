"""VoxPopuli (Wang et al. 2021): speeches in the European Parliament, any of its languages -> {train,dev,test}.jsonl.gz.

python recipes/voxpopuli/prepare.py CORPUS OUT [--language en]      or      asr prepare voxpopuli CORPUS OUT
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from lhotse.recipes.voxpopuli import prepare_voxpopuli

from asr.dataset.corpus import command_line, require, write_splits
from asr.dataset.lhotse_recipes import manifests_of, segments
from asr.text import normalizer

WORDS = normalizer(["lower", "punctuation"])


def prepare(corpus: Path, out: Path, *, language: str = "en") -> None:
    """Write one language's transcribed cuts, in its own three parts: lower case, without punctuation.

    CORPUS is the directory that holds raw_audios/LANGUAGE/. The transcripts, asr_LANGUAGE.tsv.gz, are taken from
    CORPUS/annotations/asr where they are there, and fetched by Lhotse where they are not.
    """
    require(corpus, f"raw_audios/{language}", name="VoxPopuli")
    table = corpus / "annotations/asr" / f"asr_{language}.tsv.gz"
    with tempfile.TemporaryDirectory() as folder:
        if table.is_file():
            shutil.copy(table, folder)
        found = manifests_of("VoxPopuli", corpus, prepare_voxpopuli, folder, lang=language)
    parts = ("train", "dev", "test")
    write_splits({part: segments(found[part], text=WORDS, language=language) for part in parts}, out)


if __name__ == "__main__":
    command_line(prepare)
