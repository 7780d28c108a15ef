"""AISHELL-1 (Bu et al. 2017; OpenSLR 33): 178 hours of read Mandarin -> {train,dev,test}.jsonl.gz.

python recipes/aishell/prepare.py CORPUS OUT      or      asr prepare aishell CORPUS OUT
"""

from __future__ import annotations

from pathlib import Path

from lhotse.recipes.aishell import prepare_aishell

from asr.dataset.corpus import command_line, require, write_splits
from asr.dataset.lhotse_recipes import manifests_of, segments


def prepare(corpus: Path, out: Path) -> None:
    """Write AISHELL-1's cuts in its own three parts, texts without spaces.

    CORPUS is the directory that holds data_aishell/, with the archives of its wav/ unpacked. Audio without a transcript
    is left out, with a warning.
    """
    parts = ("train", "dev", "test")
    folders = (f"data_aishell/wav/{part}" for part in parts)
    require(corpus, "data_aishell/transcript/aishell_transcript_v0.8.txt", *folders, name="AISHELL-1")
    found = manifests_of("AISHELL-1", corpus, prepare_aishell)
    write_splits({part: segments(found[part], language="zh") for part in parts}, out)


if __name__ == "__main__":
    command_line(prepare)
