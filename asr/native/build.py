"""Builds the C library in place: `python -m asr.native.build`.

An install does this by itself, `pip install -e .` included; this is for after a change to a C file.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

__all__ = ["build"]


def build() -> None:
    """Compile the library beside its sources, as setup.py says. Raises SystemExit where that cannot be."""
    root = Path(__file__).parents[2]
    if not (root / "setup.py").exists():
        raise SystemExit(f"{root} holds no setup.py: build in a checkout, or reinstall rill-asr")
    done = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace", "--force"], cwd=root, check=False
    )
    if done.returncode:
        raise SystemExit("the C library was not built; the compiler's message is above")


if __name__ == "__main__":
    build()
