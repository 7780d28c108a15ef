"""WenetSpeech (Zhang et al. 2022): 10,000 hours of Mandarin from the Internet.

python recipes/wenetspeech/prepare.py CORPUS OUT [--part M]      or      asr prepare wenetspeech CORPUS OUT
"""

from __future__ import annotations

from pathlib import Path

from lhotse.recipes.wenet_speech import prepare_wenet_speech

from asr.dataset.corpus import command_line, require, write_splits
from asr.dataset.lhotse_recipes import manifests_of, segments

OTHERS = {"dev": "DEV", "test-net": "TEST_NET", "test-meeting": "TEST_MEETING"}


def prepare(corpus: Path, out: Path, *, part: str = "L") -> None:
    """Write train, dev, test-net and test-meeting.jsonl.gz: train is PART (S 100, M 1,000, L 10,000
    hours).

    CORPUS is the directory that holds WenetSpeech.json and audio/.
    """
    require(corpus, "WenetSpeech.json", "audio", name="WenetSpeech")
    parts = {"train": part, **OTHERS}
    found = manifests_of("WenetSpeech", corpus, prepare_wenet_speech, list(parts.values()))
    write_splits({name: segments(found[one], language="zh") for name, one in parts.items()}, out)


if __name__ == "__main__":
    command_line(prepare)
