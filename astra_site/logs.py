"""Write logs as compact lines: time, level, process, logger, message, then ``key=value`` for each extra."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

from astra_site import request_id

# What every record carries anyway; anything else came by ``extra``.
USUAL = frozenset(vars(logging.makeLogRecord({}))) | {
    *("message", "asctime", "taskName"),
    *("request", "server_time", "status_code"),  # put there by Django
}


def process_name() -> str:
    """Return the command this process runs: ``web``, ``worker``, ``scheduler``, ``up`` …"""
    is_manage = Path(sys.argv[0]).name in ("manage.py", "django-admin")
    return sys.argv[1] if is_manage and len(sys.argv) > 1 else Path(sys.argv[0]).stem or "python"


class LineFormatter(logging.Formatter):
    """Format a record as one line (and a traceback below it, when there is one)."""

    def __init__(self) -> None:
        super().__init__()
        self.process = process_name()

    def format(self, record: logging.LogRecord) -> str:
        """Return ``12:00:00.123 INFO worker jobs.claim: Claimed a job. action=claim job=…``."""
        moment = f"{time.strftime('%H:%M:%S', time.localtime(record.created))}.{int(record.msecs):03d}"
        line = f"{moment} {record.levelname} {self.process} {record.name}: {record.getMessage()}"
        extra = {key: value for key, value in vars(record).items() if key not in USUAL}
        if current := request_id.current():
            extra.setdefault("request_id", current)
        line += "".join(f" {key}={_plain(str(value))}" for key, value in extra.items())
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def _plain(value: str) -> str:
    """Quote a value that would not read as one word."""
    return value if value and not any(c.isspace() or c in "\"'" for c in value) else repr(value)
