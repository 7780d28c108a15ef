"""The embedded corpus, data/mini -> {train,dev,test}.jsonl.gz.

python recipes/mini/prepare.py data/mini OUT      or      asr prepare mini data/mini OUT
"""

from __future__ import annotations

from pathlib import Path

from lhotse import CutSet

from asr.dataset.corpus import audio_files, command_line, require, write_splits
from asr.dataset.manifest import Manifest
from asr.errors import DataError

SPLITS = ("train", "dev", "test")


def prepare(corpus: Path, out: Path, *, skip_bad: bool = False) -> None:
    """Write the embedded corpus' cuts with absolute paths; in the repository they are relative to their folder.

    CORPUS is the directory that holds train.jsonl.gz, dev.jsonl.gz, test.jsonl.gz and audio/.
    """
    require(corpus, *(f"{split}.jsonl.gz" for split in SPLITS), "audio", name="mini")
    write_splits({split: read_split(corpus, split, skip_bad=skip_bad) for split in SPLITS}, out)


def read_split(corpus: Path, split: str, *, skip_bad: bool) -> CutSet:
    """One split's cuts.

    Raises:
        DataError: audio that is missing (unless `skip_bad`), by the manifest's line.
    """
    manifest = Manifest([corpus / f"{split}.jsonl.gz"])
    cuts = []
    for i in range(len(manifest)):
        missing = [file for file in audio_files(manifest[i]) if not Path(file).is_file()]
        if missing and not skip_bad:
            raise DataError(
                f"{manifest.where(i)}: {missing[0]} is missing; restore it (git checkout), or go on with --skip-bad"
            )
        if not missing:
            cuts.append(manifest[i])
    return CutSet.from_cuts(cuts)


if __name__ == "__main__":
    command_line(prepare)
