"""Logs of the service: one line per event, for people or as JSON."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

from cutout.errors import printable

__all__ = ["event", "set_up", "warning"]

_log = logging.getLogger("cutout.service")


def event(name: str, *, level: int = logging.INFO, error: BaseException | None = None, **facts: Any) -> None:
    """Write an event with its facts; an unexpected error comes with its traceback."""
    _log.log(level, name, extra={"facts": facts}, exc_info=error)


def warning(text: str, **facts: Any) -> None:
    """Write what an operator should look at."""
    event("warning", level=logging.WARNING, text=text, **facts)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        facts = " ".join(f"{key}={_plain(value)}" for key, value in getattr(record, "facts", {}).items())
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = f"{stamp}Z {record.levelname.lower()} {printable(record.getMessage())} {facts}".rstrip()
        return line + (f"\n{self.formatException(record.exc_info)}" if record.exc_info else "")


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{stamp}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _plain(value: object) -> str:
    text = printable(f"{value:.3f}" if isinstance(value, float) else str(value))
    return json.dumps(text, ensure_ascii=False) if not text or " " in text or '"' in text else text


def set_up(log_format: str) -> None:
    """Send events, and what the server library says, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if log_format == "json" else _Text())
    for name, level in (("cutout.service", logging.INFO), ("uvicorn", logging.WARNING), ("celery", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False
