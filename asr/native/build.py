"""Builds the C library in place: `python -m asr.native.build`.

An install does this by itself, `pip install -e .` included; this is for after a change to a C file.
"""

from __future__ import annotations

import importlib.machinery
import subprocess
import sys
from pathlib import Path

__all__ = ["build"]

SETUP = "from setuptools import setup; setup()"


def build() -> None:
    """Compile the library beside its sources, as pyproject.toml says. Raises SystemExit where that fails."""
    folder = Path(__file__).parent
    root = folder.parents[1]
    if not (root / "pyproject.toml").exists():
        raise SystemExit(f"{root} holds no pyproject.toml: build in a checkout, or reinstall rill-asr")
    # The old file goes first: to setuptools a failed optional extension is no error.
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        (folder / f"_kernels{suffix}").unlink(missing_ok=True)
    subprocess.run([sys.executable, "-c", SETUP, "build_ext", "--inplace", "--force"], cwd=root, check=False)
    if not any((folder / f"_kernels{suffix}").exists() for suffix in importlib.machinery.EXTENSION_SUFFIXES):
        raise SystemExit("the C library was not built; the compiler's message is above")


if __name__ == "__main__":
    build()
