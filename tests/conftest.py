"""What all tests share: where the embedded and the real corpora are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

ROOT = Path(__file__).parents[1]

# No deadline: a machine that does other work besides is slow, not wrong.
settings.register_profile("rill", deadline=None, max_examples=50)
settings.load_profile("rill")

os.environ.setdefault("MPLBACKEND", "Agg")  # pictures are drawn without a screen
if (
    not torch.cuda.is_available()
):  # Triton's kernels run in its interpreter, which it must know when it is imported
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Indexes of manifests and fetched shards stay out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("RILL_CACHE", str(folder))
        yield folder


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
