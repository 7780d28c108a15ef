"""What all tests share: where the embedded and the real corpora are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).parents[1]

# No deadline: a machine that does other work besides is slow, not wrong.
settings.register_profile("rill", deadline=None, max_examples=50)
settings.load_profile("rill")

os.environ.setdefault("MPLBACKEND", "Agg")  # pictures are drawn without a screen


@pytest.fixture(scope="session")
def mini() -> Path:
    """The embedded corpus."""
    return ROOT / "data" / "mini"


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The directory of real corpora, which RILL_CORPORA names; tests that need it are skipped without."""
    name = os.environ.get("RILL_CORPORA")
    if not name:
        pytest.skip("RILL_CORPORA does not name a directory of real corpora (an4/, LibriSpeech/ ...)")
    return Path(name)
