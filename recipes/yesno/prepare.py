"""yesno (OpenSLR 1): a man says "yes" and "no" in Hebrew, eight times a recording -> {train,dev,test}.jsonl.gz.

python recipes/yesno/prepare.py CORPUS OUT      or      asr prepare yesno CORPUS OUT
"""

from __future__ import annotations

from pathlib import Path

from lhotse import CutSet
from lhotse.recipes.yesno import prepare_yesno

from asr.dataset.corpus import command_line, hold_out, require, write_splits
from asr.dataset.lhotse_recipes import manifests_of, segments

DEV_UTTERANCES = 4


def prepare(corpus: Path, out: Path) -> None:
    """Write yesno's cuts: test is every second recording, as in Kaldi's recipe; 4 of the other 30 are dev.

    CORPUS is the directory waves_yesno, or the one that holds it.
    """
    folder = corpus / "waves_yesno" if (corpus / "waves_yesno").is_dir() else corpus
    require(folder, "0_0_0_0_1_1_1_1.wav", name="yesno")
    found = manifests_of("yesno", folder, prepare_yesno)
    cuts = {part: CutSet.from_cuts(segments(found[part], language="he")) for part in ("train", "test")}
    train, dev = hold_out(cuts["train"], utterances=DEV_UTTERANCES, group=lambda cut: str(cut.id))
    write_splits({"train": train, "dev": dev, "test": cuts["test"]}, out)


if __name__ == "__main__":
    command_line(prepare)
