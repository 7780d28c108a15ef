from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from asr.errors import DataError
from asr.training.average import RunningAverage
from asr.training.checkpoints import RunFolder, Snapshot, thin


class Strategy:
    def barrier(self, name: str) -> None: ...


class FakeTrainer:
    """Writes a checkpoint, or half of one."""

    is_global_zero = True
    strategy = Strategy()

    def __init__(self) -> None:
        self.number = 0
        self.fails: Exception | None = None

    def save_checkpoint(self, path: Path) -> None:
        self.number += 1
        if self.fails is not None:
            path.write_bytes(b"half")
            raise self.fails
        torch.save({"number": self.number}, path)


def test_a_name_stands_for_a_whole_file(tmp_path: Path):
    folder, trainer = RunFolder(tmp_path), FakeTrainer()
    folder.save(trainer, best=True)
    folder.save(trainer)
    assert folder.load(folder.last) == {"number": 2}
    assert folder.load(folder.best) == {"number": 1}
    for error in (OSError(28, "No space left on device"), RuntimeError("unexpected pos 64 vs 0")):
        trainer.fails = error
        with pytest.raises(DataError, match=r"last.ckpt cannot be written .* GB are free there. Make room"):
            folder.save(trainer, best=True)
        assert folder.load(folder.last) == {"number": 2}
        assert folder.load(folder.best) == {"number": 1}
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == ["best.ckpt", "last.ckpt"]
    trainer.fails = None
    folder.save(trainer, best=True)
    assert folder.load(folder.best) == folder.load(folder.last) == {"number": 5}


def test_killed_while_writing_leaves_the_last_one(tmp_path: Path):
    folder, trainer = RunFolder(tmp_path), FakeTrainer()
    folder.save(trainer)

    class Killed(BaseException): ...

    def save_checkpoint(path: Path) -> None:
        path.write_bytes(b"PK half of a checkpoint")
        raise Killed

    trainer.save_checkpoint = save_checkpoint
    with pytest.raises(Killed):
        folder.save(trainer)
    assert folder.load(folder.last) == {"number": 1}


def test_a_damaged_checkpoint_is_named(tmp_path: Path):
    folder = RunFolder(tmp_path)
    folder.save(FakeTrainer())
    whole = folder.last.read_bytes()
    folder.last.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"last.ckpt cannot be read .*remove it to start over"):
        folder.load(folder.last)


def test_loading_runs_no_code(tmp_path: Path):
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    folder = RunFolder(tmp_path)
    folder.checkpoints.mkdir()
    torch.save({"evil": Evil()}, folder.last)
    with pytest.raises(DataError):
        folder.load(folder.last)
    assert not (tmp_path / "ran").exists()


def test_snapshots(tmp_path: Path):
    folder = RunFolder(tmp_path)
    model = nn.Linear(3, 2)
    average = RunningAverage(model)
    folder.add_snapshot(average.whole(), 0, keep=3)  # of no batch: nothing to keep
    assert folder.snapshots() == []
    for batch in range(10, 60, 10):
        average.update(model, batch)
        folder.add_snapshot(average.whole(), batch, keep=3)
    found = folder.snapshots()
    assert len(found) == 3
    assert found[-1].batches == 50
    torch.testing.assert_close(found[-1].load()["weight"], model.weight.detach())
    assert not list(folder.checkpoints.glob("*.partial"))


def test_old_snapshots_grow_sparse_and_recent_ones_stay():
    kept: list[Snapshot] = []
    for batch in range(1, 201):
        kept.append(Snapshot(Path(str(batch)), batch))
        out = thin(kept, 30)
        kept = [snapshot for snapshot in kept if snapshot not in out]
    batches = [snapshot.batches for snapshot in kept]
    assert len(batches) == 30
    assert batches[-2:] == [199, 200]
    for share in (0.1, 0.25, 0.5):  # near each span that `asr average` tries there is a snapshot
        assert min(abs(b - 200 * (1 - share)) for b in batches) <= 10
