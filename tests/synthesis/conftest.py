"""A voice that is there everywhere: a program that hums."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

HUM = '''
"""Writes a tone, 60 ms a letter at a speed of 1; its pitch is the speaker's."""
import array, math, sys, wave
out, speaker, speed, text = *sys.argv[1:4], sys.argv[4] if len(sys.argv) > 4 else sys.stdin.read().strip()
if "mute" in text:
    sys.exit("no tongue")
count = 100 if "swallow" in text else int(480 * len(text) / float(speed))
pitch = 200 + 50 * int(speaker or 0)
samples = array.array("h", (int(9000 * math.sin(2 * math.pi * pitch * i / 8000)) for i in range(count)))
with wave.open(out, "wb") as file:
    file.setparams((1, 2, 8000, 0, "NONE", ""))
    file.writeframes(b"" if "silence" in text else samples.tobytes())
'''


@pytest.fixture
def hum(tmp_path: Path) -> str:
    """The command's template, without what tells it the text."""
    script = tmp_path / "hum.py"
    script.write_text(HUM)
    return f"{shlex.quote(sys.executable)} -S {shlex.quote(str(script))} {{out}} {{speaker}} {{speed}}"
