"""The corpus mix of the embedded English model: AN4, speechocean762, RoboTutor stories, LibriSpeech, made
speech.

    python recipes/english/prepare.py CORPUS OUT [--synthesised TABLE.tsv]      or      asr prepare english
    CORPUS OUT

Writes {train,dev,test}.jsonl.gz of all together, and a folder OUT/NAME with the same three for each corpus
alone. All texts are in one normal form: A-Z, apostrophes inside words, single spaces; all ids begin with
their corpus.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from lhotse import CutSet
from lhotse.cut import Cut

from asr.dataset.corpus import command_line, hold_out, require, sibling, speaker_of, to_cuts, write_splits
from asr.dataset.cuts import text_of
from asr.dataset.sources import from_table
from asr.errors import DataError
from asr.text import letters_only

FOLDERS = {
    "an4": "an4",
    "speechocean762": "speechocean762",
    "robotutor": "robotutor-stories",
    "librispeech": "LibriSpeech",
}
DEV_UTTERANCES = 100
SENTENCE_WORDS = 4
DEV_SHARE_OF_VOICES = 1 / 32

log = logging.getLogger(__name__)


def prepare(corpus: Path, out: Path, *, synthesised: Path | None = None, skip_bad: bool = False) -> None:
    """Write the mix. CORPUS is the directory that holds an4/, speechocean762/, robotutor-stories/ and
    LibriSpeech/.

    Each corpus gives its train part, out of which a small dev is held out; test parts of AN4, speechocean762
    and RoboTutor stories are written for measuring, and enter no training. `synthesised` is a table (path,
    text, speaker, duration) of made speech: lines whose file is not there yet are left out, so it may still
    be growing.
    """
    require(corpus, *FOLDERS.values(), name="English mix")
    corpora = {name: corpus / folder for name, folder in FOLDERS.items()}
    found = {
        name: sibling(__file__, name)["splits"](corpora[name], skip_bad=skip_bad)
        for name in ("an4", "speechocean762", "librispeech")
    }
    found["robotutor"] = robotutor(corpora["robotutor"], skip_bad=skip_bad)
    # LibriSpeech's own test parts are not among what this model is measured on.
    found["librispeech"] = {
        part: cuts for part, cuts in found["librispeech"].items() if part in ("train", "dev")
    }
    if synthesised is not None:
        found["synthesised"] = made(synthesised)
    found = {
        name: {
            part: CutSet.from_cuts(in_normal_form(cut, name) for cut in cuts) for part, cuts in splits.items()
        }
        for name, splits in found.items()
    }
    if synthesised is not None:
        found["synthesised"] = without_tests(found)
    mix = {
        part: CutSet.from_cuts(cut for splits in found.values() for cut in splits.get(part, ()))
        for part in ("train", "dev", "test")
    }
    for name, splits in found.items():
        write_splits(splits, out / name)
    write_splits(mix, out)  # refuses audio or ids that stand in two parts


def without_tests(found: dict[str, dict[str, CutSet]]) -> dict[str, CutSet]:
    """The synthesised utterances whose text is no test sentence of any corpus; short phrases may be."""
    tests = {
        text
        for splits in found.values()
        for cut in splits.get("test", ())
        if len((text := text_of(cut)).split()) >= SENTENCE_WORDS
    }
    kept = {
        part: CutSet.from_cuts(cut for cut in cuts if text_of(cut) not in tests)
        for part, cuts in found["synthesised"].items()
    }
    if left_out := sum(len(cuts) for cuts in found["synthesised"].values()) - sum(map(len, kept.values())):
        log.warning("left out %d synthesised utterances that say a test sentence", left_out)
    return kept


def robotutor(corpus: Path, *, skip_bad: bool) -> dict[str, CutSet]:
    """RoboTutor stories (Carnegie Mellon University and RoboTutor LLC): {train,test}.tsv of path and text.

    Speakers are not named; the story (the audio's folder) stands in, so dev is about 100 utterances of
    held-out stories.
    """
    require(corpus, "train.tsv", "test.tsv", "audio", name="RoboTutor stories")
    cuts = {
        part: to_cuts(
            from_table(corpus / f"{part}.tsv", speaker=lambda path: Path(path).parent.name), skip_bad=skip_bad
        )
        for part in ("train", "test")
    }
    train, dev = hold_out(without_copies(cuts["train"], cuts["test"]), utterances=DEV_UTTERANCES)
    return {"train": train, "dev": without_copies(dev, train), "test": cuts["test"]}


def without_copies(cuts: CutSet, others: CutSet) -> CutSet:
    """Those of `cuts` that have not both the text and the number of samples of one of `others`.

    Some stories share recordings, encoded twice; one in the test part ("Dad and Sam sit on the mat") is in train too.
    """

    def key(cut: Cut) -> tuple[str, int]:
        return text_of(cut, case="upper"), cut.num_samples

    known = {key(cut) for cut in others}
    return CutSet.from_cuts(cut for cut in cuts if key(cut) not in known)


def made(table: Path) -> dict[str, CutSet]:
    """The synthesised speech that is there, with some voices held out."""
    if not table.is_file():
        raise DataError(f"{table} is missing: `asr synthesize` writes it (path, text, speaker, duration)")
    cuts = to_cuts(from_table(table, growing=True), skip_bad=True)
    held = [cut for cut in cuts if is_held_out(speaker_of(cut))]
    train = [cut for cut in cuts if not is_held_out(speaker_of(cut))]
    return {"train": CutSet.from_cuts(train), "dev": CutSet.from_cuts(held[:DEV_UTTERANCES])}


def is_held_out(voice: str) -> bool:
    """Whether train does without a voice: by its name alone, so that dev stays as the table grows."""
    return hashlib.sha256(voice.encode()).digest()[0] < 256 * DEV_SHARE_OF_VOICES


def in_normal_form(cut: Cut, corpus: str) -> Cut:
    """The cut with its id, text and speaker as the mix wants them.

    Raises:
        DataError: a text that has no normal form, by the utterance's id.
    """
    supervision = cut.supervisions[0]
    try:
        text = letters_only(supervision.text or "")
    except ValueError as error:
        raise DataError(f"{corpus}, utterance {cut.id}: {error}") from error
    supervision.text = text
    supervision.speaker = f"{corpus}-{speaker_of(cut)}"
    return cut.with_id(f"{corpus}-{cut.id}")


if __name__ == "__main__":
    command_line(prepare)
