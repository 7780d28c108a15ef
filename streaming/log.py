"""Log lines that a machine can read: one JSON object each. They never hold audio, text or secrets."""

from __future__ import annotations

import json
import logging

__all__ = ["log_event"]


def log_event(logger: logging.Logger, event: str, /, **fields: str | float | None) -> None:
    if logger.isEnabledFor(logging.INFO):
        logger.info("%s", json.dumps({"event": event, **fields}, separators=(",", ":")))
