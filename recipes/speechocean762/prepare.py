"""speechocean762 (OpenSLR 101; Zhang et al. 2021) -> {train,dev,test}.jsonl.gz.

python recipes/speechocean762/prepare.py CORPUS OUT      or      asr prepare speechocean762 CORPUS OUT
"""

from __future__ import annotations

from pathlib import Path

from lhotse import CutSet

from asr.dataset.corpus import command_line, hold_out, require, to_cuts, write_splits
from asr.dataset.sources import from_kaldi

DEV_UTTERANCES = 140  # seven of the 125 training speakers, 20 utterances each


def prepare(corpus: Path, out: Path, *, skip_bad: bool = False) -> None:
    """Write speechocean762's cuts: test is the corpus' own (2,500), dev 140 utterances of held-out training
    speakers.

    CORPUS is the directory that holds train/wav.scp, train/text, test/ and WAVE/.
    """
    write_splits(splits(corpus, skip_bad=skip_bad), out)


def splits(corpus: Path, *, skip_bad: bool = False) -> dict[str, CutSet]:
    """speechocean762's cuts by split: train, dev, test."""
    files = [f"{part}/{name}" for part in ("train", "test") for name in ("wav.scp", "text", "utt2spk")]
    require(corpus, *files, "WAVE", name="speechocean762")
    cuts = {
        part: to_cuts(from_kaldi(corpus / part, root=corpus), skip_bad=skip_bad) for part in ("train", "test")
    }
    train, dev = hold_out(cuts["train"], utterances=DEV_UTTERANCES)
    return {"train": train, "dev": dev, "test": cuts["test"]}


if __name__ == "__main__":
    command_line(prepare)
