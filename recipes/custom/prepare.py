"""Your own speech, in whatever it is kept -> {train,dev,test}.jsonl.gz.

python recipes/custom/prepare.py CORPUS OUT      or      asr prepare custom CORPUS OUT
"""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Mapping
from pathlib import Path

from lhotse import CutSet, load_manifest_lazy
from lhotse.cut import Cut

from asr.dataset.corpus import Utterance, command_line, hold_out_share, to_cuts, write_splits
from asr.dataset.lhotse_recipes import segments
from asr.dataset.sources import TABLES, from_folder, from_hugging_face, from_kaldi, from_table
from asr.errors import DataError
from asr.text import normalizer

SPLITS = {
    "train": ("train", "training"),
    "dev": ("dev", "valid", "validation", "val"),
    "test": ("test", "eval"),
}
MANIFESTS = (".jsonl.gz", ".jsonl")

WORDS = normalizer(["lower", "punctuation"])

log = logging.getLogger(__name__)


def prepare(
    corpus: Path, out: Path, *, language: str = "en", normalise: bool = False, skip_bad: bool = False
) -> None:
    """Write the cuts of your own corpus. CORPUS may be

      a table            .tsv or .csv with columns path and text, or .jsonl (NeMo's and WeNet's, too)
      a folder           of audio files with a .txt beside each, or of tables
      a Kaldi directory  wav.scp, text and, where there are any, segments and utt2spk
      Lhotse manifests   cuts, or recordings and supervisions
      a dataset          that Hugging Face's `datasets` has saved with save_to_disk

    Folders, tables or manifests called train, dev (or valid, validation) and test are its parts. Without a dev part
    5 % of train are held out. --normalise makes texts lower case without punctuation; --skip-bad leaves out what
    cannot be read.
    """
    if not corpus.exists():
        raise DataError(f"{corpus} does not exist: give a folder, a table or a manifest")
    found = read(corpus, out, skip_bad=skip_bad)
    splits = {
        name: cuts if isinstance(cuts, CutSet) else to_cuts(cuts, language=language, skip_bad=skip_bad)
        for name, cuts in found.items()
    }
    if normalise:
        splits = {name: CutSet.from_cuts(map(normalised, cuts)) for name, cuts in splits.items()}
    if "train" in splits and "dev" not in splits:
        splits["train"], splits["dev"] = hold_out_share(splits["train"].to_eager())
    write_splits(splits, out)


def read(corpus: Path, out: Path, *, skip_bad: bool) -> Mapping[str, list[Utterance] | CutSet]:
    """The parts of a corpus: by what it is, and of all that is in one piece as train."""
    if corpus.is_file():
        return {"train": read_file(corpus)}
    if (corpus / "dataset_dict.json").is_file() or (corpus / "dataset_info.json").is_file():
        log.info("%s: a dataset of Hugging Face's", corpus)
        found = from_hugging_face(corpus, out / "audio")
        return {split_of(name): utterances for name, utterances in found.items()}
    if manifests := sorted(corpus.glob("*recordings*.jsonl*")):
        log.info("%s: Lhotse's recordings and supervisions", corpus)
        pairs = {split_of(path.name): path for path in manifests}
        return {split: read_pair(path) for split, path in pairs.items()}
    files = [
        path
        for path in sorted(corpus.iterdir())
        if path.is_file() and path.name.endswith((*TABLES, *MANIFESTS))
    ]
    if files:
        log.info("%s: tables %s", corpus, ", ".join(path.name for path in files))
        return {split_of(path.name): read_file(path) for path in files}
    folders = {
        name: corpus / alias
        for name, aliases in SPLITS.items()
        for alias in aliases
        if (corpus / alias).is_dir()
    }
    folders = folders if "train" in folders else {"train": corpus}
    return {name: read_folder(folder, corpus, skip_bad=skip_bad) for name, folder in folders.items()}


def read_file(path: Path) -> list[Utterance] | CutSet:
    """A table, or Lhotse's cuts."""
    if path.name.endswith(MANIFESTS) and is_cuts(path):
        return CutSet.from_file(path)
    if path.suffix not in TABLES:
        raise DataError(f"{path}: expected a table ({', '.join(TABLES)}) or Lhotse's cuts")
    return from_table(path)


def is_cuts(path: Path) -> bool:
    """Whether the first line of a file, gzipped or not, is one of Lhotse's cuts."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as lines:
        try:
            first = json.loads(next(lines, "{}"))
        except ValueError:
            return False
    return isinstance(first, dict) and bool({"supervisions", "recording", "tracks"} & first.keys())


def read_pair(recordings: Path) -> CutSet:
    """Lhotse's recordings with the supervisions that lie beside them under the same name."""
    supervisions = recordings.with_name(recordings.name.replace("recordings", "supervisions"))
    if not supervisions.is_file():
        raise DataError(f"{recordings}: {supervisions.name} is missing beside it")
    pair = {"recordings": load_manifest_lazy(recordings), "supervisions": load_manifest_lazy(supervisions)}
    return segments(pair, language=None)


def read_folder(folder: Path, corpus: Path, *, skip_bad: bool) -> list[Utterance]:
    if (folder / "wav.scp").is_file():
        log.info("%s: a Kaldi directory", folder)
        root = next((r for r in (Path(), corpus, folder) if kaldi_paths_start_at(folder, r)), Path())
        return from_kaldi(folder, root=root)
    return from_folder(folder, root=corpus, skip_bad=skip_bad)


def kaldi_paths_start_at(folder: Path, root: Path) -> bool:
    """Whether the first recording of wav.scp lies below `root`."""
    first = (folder / "wav.scp").read_text(encoding="utf-8").split(maxsplit=2)
    return len(first) > 1 and (root / first[1]).is_file()


def split_of(name: str) -> str:
    """The part that a file's name says it is; train where it says nothing."""
    words = name.lower().replace(".", "_").replace("-", "_").split("_")
    return next((split for split, aliases in SPLITS.items() if set(aliases) & set(words)), "train")


def normalised(cut: Cut) -> Cut:
    for supervision in cut.supervisions:
        supervision.text = WORDS(supervision.text or "")
    return cut


if __name__ == "__main__":
    command_line(prepare)
