"""Mini LibriSpeech (OpenSLR 31): five hours of LibriSpeech -> {train,dev,test}.jsonl.gz.

python recipes/mini_librispeech/prepare.py CORPUS OUT      or      asr prepare mini_librispeech CORPUS OUT
"""

from __future__ import annotations

from pathlib import Path

from asr.dataset.corpus import command_line, hold_out_share, require, sibling, write_splits


def prepare(corpus: Path, out: Path, *, skip_bad: bool = False) -> None:
    """Write Mini LibriSpeech's cuts: test is dev-clean-2, which others publish results on; dev is 5 % of train-clean-5.

    CORPUS is the directory that holds train-clean-5/ and dev-clean-2/.
    """
    require(corpus, "train-clean-5", "dev-clean-2", name="Mini LibriSpeech")
    read_part = sibling(__file__, "librispeech")["read_part"]
    train, dev = hold_out_share(read_part(corpus, "train-clean-5", skip_bad=skip_bad))
    test = read_part(corpus, "dev-clean-2", skip_bad=skip_bad)
    write_splits({"train": train, "dev": dev, "test": test}, out)


if __name__ == "__main__":
    command_line(prepare)
