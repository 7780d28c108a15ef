"""Where somebody speaks: Silero's voice activity detector, if it is installed (`pip install rill-asr[vad]`).

Its package brings the model as an ONNX file, which ONNX Runtime runs; nothing else of the package is imported. It hears
windows of 32 ms, each with the 4 ms before it, and remembers the windows before. It tells where text may be cut, and
never touches what is recognised.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from asr.errors import ConfigError

__all__ = ["Voice", "available"]

WINDOW, CONTEXT = 512, 64  # samples at 16 kHz
HYSTERESIS = 0.15  # of the probability, by which voice ends lower than it begins: Silero's own
_FILE = "silero_vad_16k_sequence.onnx"
_KEPT = 4096  # voiced windows, more than two minutes: no segment is longer


@cache
def available() -> bool:
    """Whether the detector can be had."""
    return _model_file() is not None and find_spec("onnxruntime") is not None


def _model_file() -> Path | None:
    try:
        found = [file for file in files("silero-vad") or () if file.name == _FILE]
    except PackageNotFoundError:
        return None
    return Path(str(found[0].locate())) if found else None


@cache
def _session() -> Any:
    path = _model_file()
    if path is None or not available():
        raise ConfigError("voice activity needs Silero's detector: pip install 'rill-asr[vad]'")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class Voice:
    """One stream's, which begins at its sample `begin`; voice begins at a probability of `threshold`. Raises
    ConfigError where there is no detector.
    """

    def __init__(self, begin: int = 0, *, threshold: float = 0.5) -> None:
        self.threshold = threshold
        self._model = _session()
        self._state = np.zeros((1, 1, 128), np.float32), np.zeros((1, 1, 128), np.float32)
        self._rest = np.zeros(
            CONTEXT, np.float32
        )  # what the next window still sees, and what is less than a window
        self._at = begin
        self._speaking = False
        self._voiced: list[int] = []  # where voiced windows end

    def push(self, samples: np.ndarray) -> None:
        """The next samples (n,), float32 in [-1, 1] at 16 kHz."""
        samples = np.concatenate([self._rest, samples])
        count = (len(samples) - CONTEXT) // WINDOW
        self._rest = samples[count * WINDOW :].copy()
        if not count:
            return
        windows = np.lib.stride_tricks.sliding_window_view(samples, CONTEXT + WINDOW)[::WINDOW][:count]
        h, c = self._state
        found, h, c = self._model.run(None, {"input": np.ascontiguousarray(windows), "h": h, "c": c})
        self._state = h, c
        for probability in found:
            self._at += WINDOW
            self._speaking = bool(probability >= self.threshold - HYSTERESIS * self._speaking)
            if self._speaking:
                self._voiced.append(self._at)
        del self._voiced[: max(0, len(self._voiced) - _KEPT)]

    def quiet(self, begin: int, end: int) -> int:
        """Samples of the longest stretch without a voice from `begin` to before `end`."""
        first, last = bisect_right(self._voiced, begin), bisect_right(self._voiced, end + WINDOW - 1)
        longest, at = 0, begin
        for voiced in self._voiced[first:last]:
            longest, at = max(longest, voiced - WINDOW - at), voiced
        return max(longest, end - at)
