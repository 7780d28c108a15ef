"""AN4 (Carnegie Mellon University, 1991) -> {train,dev,test}.jsonl.gz.

python recipes/an4/prepare.py CORPUS OUT      or      asr prepare an4 CORPUS OUT
"""

from __future__ import annotations

import re
from pathlib import Path

from lhotse import CutSet

from asr.dataset.corpus import Utterance, command_line, hold_out, require, to_cuts, write_splits
from asr.dataset.sources import read_lines
from asr.errors import DataError

DEV_UTTERANCES = 100
SUFFIXES = (".flac", ".wav", ".sph")  # as re-encoded, as converted, as published


def prepare(corpus: Path, out: Path, *, skip_bad: bool = False) -> None:
    """Write AN4's cuts: test is the corpus' own (130 utterances), dev about 100 utterances of held-out
    training speakers.

    CORPUS is the directory that holds etc/an4_train.transcription and wav/.
    """
    write_splits(splits(corpus, skip_bad=skip_bad), out)


def splits(corpus: Path, *, skip_bad: bool = False) -> dict[str, CutSet]:
    """AN4's cuts by split: train, dev, test."""
    tables = [f"etc/an4_{part}.{kind}" for part in ("train", "test") for kind in ("fileids", "transcription")]
    require(corpus, *tables, "wav", name="AN4")
    train, dev = hold_out(to_cuts(read_part(corpus, "train"), skip_bad=skip_bad), utterances=DEV_UTTERANCES)
    return {"train": train, "dev": dev, "test": to_cuts(read_part(corpus, "test"), skip_bad=skip_bad)}


def read_part(corpus: Path, part: str) -> list[Utterance]:
    """The utterances of etc/an4_PART.{fileids,transcription}, texts without <s>, </s> and the id that ends
    each line.

    Raises:
        DataError: a line without its id, or whose id is not that of the same line of the fileids.
    """
    fileids = [line.strip() for _, line in read_lines(corpus / f"etc/an4_{part}.fileids")]
    table = corpus / f"etc/an4_{part}.transcription"
    lines = list(read_lines(table))
    if len(lines) != len(fileids):
        raise DataError(f"{table} has {len(lines)} lines, but an4_{part}.fileids has {len(fileids)}")
    utterances = []
    for fileid, (number, line) in zip(fileids, lines, strict=True):
        match = re.fullmatch(r"(?:<s>)?(.*?)(?:</s>)?\s*\((\S+)\)", line.strip())
        where = f"{table}, line {number}"
        if match is None or match[2] != Path(fileid).name:
            raise DataError(f"{where}: expected a text that ends with ({Path(fileid).name}), found {line!r}")
        stem = corpus / "wav" / fileid
        path = next(
            (found for suffix in SUFFIXES if (found := Path(f"{stem}{suffix}")).exists()),
            Path(f"{stem}.flac"),
        )
        text = " ".join(match[1].upper().split())
        utterances.append(
            Utterance(id=match[2], path=path, text=text, speaker=Path(fileid).parent.name, where=where)
        )
    return utterances


if __name__ == "__main__":
    command_line(prepare)
