"""A recipe that trains within a test."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

from tests.training.fakes import tones

RECIPE = """
model:
  encoder:
    layers: [1, 1]
    dims: [32, 32]
    feed_forward_dims: [32, 32]
    unmasked_dims: [16, 16]
    downsampling: [1, 2]
    heads: [2, 2]
    kernels: [7, 7]
    query_dim: 8
    value_dim: 4
    embed_channels: [4, 8, 8]
    chunks: [{frames: 8, left: 32}]
  transducer: {predictor: {dim: 16}, joiner_dim: 16, warmup: 5}
tokenizer: {kind: characters}
data:
  train: [DATA/train.jsonl.gz]
  dev: [DATA/train.jsonl.gz]
  max_duration: 8
  max_seconds: 4
  workers: 0
train: {epochs: 3, clock: budget, warmup_batches: 2, average_batches: 1, log_batches: 1, threads: 1}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    cuts = []
    for i, text in enumerate(["abc", "dada", "bd", "cab", "dbca", "acdb"]):
        path = tmp_path / f"{i}.flac"
        soundfile.write(path, tones(text, i).numpy(), 16000)
        recording = Recording.from_file(path)
        segment = SupervisionSegment(f"s{i}", recording.id, 0.0, recording.duration, text=text, speaker="x")
        cuts.append(MonoCut(f"c{i}", 0.0, recording.duration, 0, recording=recording, supervisions=[segment]))
    CutSet.from_cuts(cuts).to_file(tmp_path / "train.jsonl.gz")
    (tmp_path / "tones.yaml").write_text(RECIPE.replace("DATA", str(tmp_path)))
    return tmp_path / "tones.yaml"
