"""AMI (Carletta et al. 2005): 100 hours of meetings -> {train,dev,test,test-meetings}.jsonl.gz.

python recipes/ami/prepare.py CORPUS OUT [--microphone sdm]      or      asr prepare ami CORPUS OUT
"""

from __future__ import annotations

from pathlib import Path

from lhotse import CutSet
from lhotse.recipes.ami import prepare_ami

from asr.dataset.corpus import command_line, write_splits
from asr.dataset.lhotse_recipes import manifests_of, segments
from asr.errors import DataError

MICROPHONES = ("ihm", "ihm-mix", "sdm")


def prepare(corpus: Path, out: Path, *, microphone: str = "ihm") -> None:
    """Write AMI's cuts in the parts "full-corpus-asr", texts as Kaldi's recipe has them (upper case, no punctuation).

    CORPUS is the directory that holds the meetings' audio and ami_public_manual_1.6.2 (or its .zip). MICROPHONE is ihm
    (each speaker's headset), ihm-mix (their sum) or sdm (one on the table). Of the last two, test-meetings.jsonl.gz has
    whole meetings: tens of minutes, several speakers, to transcribe as they are.
    """
    if microphone not in MICROPHONES:
        raise DataError(f"--microphone {microphone}: give {', '.join(MICROPHONES)}")
    found = manifests_of("AMI", corpus, prepare_ami, mic=microphone, partition="full-corpus-asr")
    parts = ("train", "dev", "test")
    write_splits({part: segments(found[part], language="en") for part in parts}, out)
    if microphone != "ihm":  # a headset's channel is one speaker's, and no meeting
        write_splits({"test-meetings": CutSet.from_manifests(**found["test"])}, out)


if __name__ == "__main__":
    command_line(prepare)
