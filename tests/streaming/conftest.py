from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

# The tests of this folder share toy_engine.py; pytest's import mode would not find it beside them.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
