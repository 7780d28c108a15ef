from __future__ import annotations

import dataclasses
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from asr.errors import DataError
from asr.training.callbacks import Clock, Logs
from asr.training.checkpoints import RunFolder
from asr.training.memory import available, enough_memory, peak
from asr.training.speech import Speech
from asr.training.task import Task, stream
from asr.training.trainer import make_trainer, quiet
from tests.training.fakes import FakeLoader, FakeModel, batch_of
from tests.training.test_task import settings

CPU = torch.device("cpu")
ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError(),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
    ),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_batch_that_memory_is_too_small_for_is_named(error):
    batch = batch_of(["abcabc", "ab", "a", "b"])
    seconds = 4 * 6 * 0.2
    with (
        pytest.raises(
            DataError,
            match=rf"out of memory on a batch of 4 utterances of at most 1.2 s \({seconds:.0f} s with padding\) and 6 "
            r"tokens: utterance-0-0, utterance-0-1, utterance-0-2 .... Set data.max_duration=3 .*--find-batch",
        ),
        enough_memory(batch),
    ):
        raise error


def test_texts_have_a_budget_of_their_own():
    batch = dataclasses.replace(batch_of(["abcabc", "ab"]), samples=torch.zeros(2, 0))
    with (
        pytest.raises(DataError, match="2 texts of at most 6 tokens. Set data.max_tokens=8"),
        enough_memory(batch),
    ):
        raise MemoryError


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shapes"), enough_memory(batch_of(["a"])):
        raise RuntimeError("shapes differ")


def test_an_allocation_that_cannot_be_is_recognised():
    with pytest.raises(DataError, match="out of memory"), enough_memory(batch_of(["a"])):
        torch.empty(1 << 60, dtype=torch.uint8)


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_training_says_which_batch_it_was(tmp_path, where):
    class Greedy(pl.Callback):
        def on_train_batch_start(self, trainer, task, batch, batch_idx):
            def fail(*_):
                raise torch.OutOfMemoryError("out of memory")

            layer = task.model.encoder.layers[0]
            if task.progress.items == 2 and where == "forward":
                layer.register_forward_hook(fail)
            elif task.progress.items == 2:
                layer.weight.register_hook(fail)

    task = Task(Speech(FakeModel()), settings(), run_dir=tmp_path)
    with quiet():
        trainer = make_trainer(settings(), RunFolder(tmp_path), [Clock(), Greedy(), Logs()])
        with pytest.raises(DataError, match=r"batch of 3 utterances .*utterance-20-0"):
            trainer.fit(task, stream(FakeLoader()))


def test_the_peak_is_what_was_used_at_most():
    """In a process of its own, whose first peak this is."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        before, after, left = pool.submit(use, 300_000_000).result()
    assert 0.9 * 300e6 < after - before < 1.2 * 300e6
    assert after < left


def use(size: int) -> tuple[int, int, int]:
    before = peak(CPU)
    np.ones(size, dtype=np.uint8)
    return before, peak(CPU), available(CPU)
