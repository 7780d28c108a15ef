"""Triton's interpreter runs what its compiler refuses, so the kernels are compiled for a GPU, too, without one."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest


@pytest.mark.skipif(
    find_spec("triton") is None, reason="`pip install triton`, which torch's CUDA builds bring"
)
def test_the_kernels_compile(tmp_path: Path) -> None:
    settings = {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, str(Path(__file__).parent / "compile_kernels.py")]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("_lattice") == 4 and done.stdout.count("_durations") == 2
