"""Log lines that a machine can read: one JSON object each. They never hold audio or secrets, and text only if asked."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

__all__ = ["JsonLines", "log_event", "log_text", "set_up"]

_texts = logging.getLogger("streaming.texts")
_texts.disabled = True


def log_event(logger: logging.Logger, event: str, /, **fields: str | float | None) -> None:
    """An event with its fields."""
    if logger.isEnabledFor(logging.INFO):
        logger.info(event, extra={"fields": fields})


def log_text(session: str, text: str) -> None:
    """What was recognised, where the operator has asked for it."""
    log_event(_texts, "text", session=session, text=text)


class JsonLines(logging.Formatter):
    """Each record as one line: time (UTC), level, event or message, and its fields; the traceback of an error."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": time, "level": record.levelname.lower(), "event": record.getMessage()}
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, separators=(",", ":"))


def set_up(*, verbose: bool, text: bool) -> None:
    """Log to stderr. A line that cannot be written, to a disk that is full, is lost and harms nothing."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler], force=True)
    logging.raiseExceptions = False  # it would tell of each lost line on the same full disk
    _texts.disabled = not text
