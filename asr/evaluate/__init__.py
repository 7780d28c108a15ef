"""How good a model is: errors, delays, word times, confidences and speed, and the report of it."""

from __future__ import annotations

from asr.evaluate.decode import decode, decode_frames, evaluation_loader, spread_loader, stream
from asr.evaluate.errors import Errors, count_errors
from asr.evaluate.report import Report, Row
from asr.evaluate.run import evaluate

__all__ = [
    "Errors",
    "Report",
    "Row",
    "count_errors",
    "decode",
    "decode_frames",
    "evaluate",
    "evaluation_loader",
    "spread_loader",
    "stream",
]
