"""The C library: in use or not, it says why, and a broken one is no accident."""

from __future__ import annotations

import importlib.machinery
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from asr import native
from asr.native import library, swoosh_l


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    library.opened.cache_clear()
    yield tmp_path
    library.opened.cache_clear()


def test_it_is_in_use_or_says_why() -> None:
    assert native.available() == (native.reason() == "")


def test_a_library_that_was_not_built(folder: Path) -> None:
    assert not native.available()
    assert "python -m asr.native.build" in native.reason()
    with pytest.raises(OSError, match="not built"):
        library.library()
    assert swoosh_l(torch.zeros(3)).shape == (3,)


def test_a_file_that_is_no_library(folder: Path) -> None:
    (folder / (library.NAME + importlib.machinery.EXTENSION_SUFFIXES[0])).write_text("no library")
    assert not native.available()
    assert "cannot be used" in native.reason()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's list of loaded files")
def test_it_shares_the_threads_of_torch() -> None:
    if not native.available():
        pytest.skip(native.reason())
    # In a process of its own: other packages of the tests bring OpenMP libraries with them.
    code = """if True:
        import torch
        from asr import native
        native.swoosh_l(torch.zeros(100_000))
        print(*{line.split()[-1] for line in open("/proc/self/maps") if "libgomp" in line})
    """
    files = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert len(files) <= 1
