"""The log: one line an event on stderr, JSON unless a person watches. Never a row value, never a secret.

The standard library's logging with two formatters: structlog would cost the reader a tenth of its memory.
"""

from __future__ import annotations

import logging
import os
import sys
from datetime import UTC, datetime

import msgspec


class Logger:
    """The logger of one part of pgherald: event names are snake_case, facts are keywords."""

    def __init__(self, part: str) -> None:
        self._logger = logging.getLogger(f"pgherald.{part}")

    def info(self, event: str, **facts: object) -> None:
        """Say what happened as it should."""
        self._logger.info(event, extra={"facts": facts})

    def warning(self, event: str, **facts: object) -> None:
        """Say what an operator may have to look at."""
        self._logger.warning(event, extra={"facts": facts})

    def error(self, event: str, **facts: object) -> None:
        """Say what an operator must look at."""
        self._logger.error(event, extra={"facts": facts})


def get_logger(part: str) -> Logger:
    """Give the logger of one part of pgherald."""
    return Logger(part)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "part": record.name.removeprefix("pgherald."),
            "event": record.getMessage(),
            **_facts(record),
        }
        return msgspec.json.encode(line, enc_hook=str).decode()


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        clock = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        facts = " ".join(f"{name}={value}" for name, value in _facts(record).items())
        level = "" if record.levelno == logging.INFO else f" {record.levelname.lower()}"
        return f"{clock}{level} {record.name.removeprefix('pgherald.')}: {record.getMessage()} {facts}".rstrip()


def _facts(record: logging.LogRecord) -> dict[str, object]:
    return getattr(record, "facts", {})


def configure() -> None:
    """Set the log up once a process. PGHERALD_LOG=json or text overrides what the terminal suggests."""
    chosen = os.environ.get("PGHERALD_LOG") or ("text" if sys.stderr.isatty() else "json")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Text() if chosen == "text" else _Json())
    own = logging.getLogger("pgherald")
    own.handlers = [handler]
    own.setLevel(logging.INFO)
    own.propagate = False
    # The drivers speak of every retry; we say once what is wrong and when it is over.
    logging.getLogger().setLevel(logging.CRITICAL)
