from __future__ import annotations

import pytest

from asr import native
from asr.losses import backends, durations, fused, joiner, lattice, transducer


@pytest.fixture(params=["native", "torch"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the C kernels, and as where neither these were built nor another library is installed."""
    if request.param == "native" and not native.available():
        pytest.skip(native.reason())
    for module in (durations, fused, joiner, lattice, transducer):
        monkeypatch.setattr(module, "available", lambda: request.param == "native")
    monkeypatch.setattr(backends, "installed", lambda lattice: None)
    return str(request.param)
