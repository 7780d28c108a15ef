"""LibriSpeech (Panayotov et al. 2015; OpenSLR 12), whole or in part ->
{train,dev,test-clean,test-other}.jsonl.gz.

python recipes/librispeech/prepare.py CORPUS OUT      or      asr prepare librispeech CORPUS OUT
"""

from __future__ import annotations

import logging
from pathlib import Path

from lhotse import CutSet
from lhotse.recipes.librispeech import prepare_librispeech

from asr.dataset.corpus import command_line, hold_out_share, write_splits
from asr.errors import DataError

PARTS = {
    "train": ("train-clean-100", "train-clean-360", "train-other-500", "train-clean-5"),
    "dev": ("dev-clean", "dev-other", "dev-clean-2"),
    "test-clean": ("test-clean",),
    "test-other": ("test-other",),
}

log = logging.getLogger(__name__)


def prepare(corpus: Path, out: Path, *, skip_bad: bool = False) -> None:
    """Write LibriSpeech's cuts from whichever of its parts are there (the two parts of Mini LibriSpeech are
    known too).

    CORPUS is the directory that holds train-clean-100/ and its like. Without a dev part, 5 % of train are
    held out: whole speakers, or single utterances where there are fewer than 20 speakers. Parts that are
    absent are not written.
    """
    write_splits(splits(corpus, skip_bad=skip_bad), out)


def splits(corpus: Path, *, skip_bad: bool = False) -> dict[str, CutSet]:
    """LibriSpeech's cuts by split: those of `PARTS` that are not empty."""
    there = [part for parts in PARTS.values() for part in parts if (corpus / part).is_dir()]
    if not there:
        expected = ", ".join(part for parts in PARTS.values() for part in parts)
        raise DataError(
            f"{corpus} is not LibriSpeech: none of {expected} is in it; give the directory that holds them"
        )
    read = {part: read_part(corpus, part, skip_bad=skip_bad) for part in there}
    found = {
        name: CutSet.from_cuts(cut for part in parts if part in read for cut in read[part])
        for name, parts in PARTS.items()
    }
    if not len(found["dev"]) and len(found["train"]):
        found["train"], found["dev"] = hold_out_share(found["train"])
    return {name: cuts for name, cuts in found.items() if len(cuts)}


def read_part(corpus: Path, part: str, *, skip_bad: bool) -> CutSet:
    """One part through Lhotse's own recipe, in order of id, with supervisions' language and speaker set.

    Raises:
        DataError: a transcript line that cannot be read, and (unless `skip_bad`) lines whose FLAC is missing.
    """
    try:
        manifests = prepare_librispeech(corpus.absolute(), dataset_parts=part, num_jobs=4)
    except (
        Exception
    ) as error:  # Lhotse's recipe asserts and unpacks: whatever it raises means a file is not as expected
        raise DataError(f"{corpus / part} cannot be read by Lhotse's LibriSpeech recipe: {error}") from error
    if part not in manifests or not len(manifests[part]["recordings"]):
        raise DataError(
            f"{corpus / part} holds no SPEAKER/CHAPTER/*.trans.txt with its *.flac; remove or complete the part"
        )
    spoken = {cut.id for cut in manifests[part]["recordings"]}
    missing = [
        f"{table.parent / line.split()[0]}.flac (of {table.name}, line {number})"
        for table in sorted((corpus / part).rglob("*.trans.txt"))
        for number, line in enumerate(table.read_text(encoding="utf-8").splitlines(), 1)
        if line.strip() and line.split()[0] not in spoken
    ]
    if missing and not skip_bad:
        raise DataError(
            f"{len(missing)} files are missing: {', '.join(missing[:5])}; complete them, or go on with --skip-bad"
        )
    if missing:
        log.warning("left out %d utterances whose files are missing: %s", len(missing), ", ".join(missing))
    cuts = CutSet.from_manifests(**manifests[part]).to_eager()
    cuts = CutSet.from_cuts(
        sorted((cut.with_id(cut.recording_id) for cut in cuts), key=lambda cut: str(cut.id))
    )
    for cut in cuts:
        cut.supervisions[0].language = "en"  # Lhotse's recipe writes "English"
    return cuts


if __name__ == "__main__":
    command_line(prepare)
