"""Write logs as compact lines: time, level, process, logger, message, then ``key=value`` for each extra."""

from __future__ import annotations

import logging
import re
import sys
import time
from pathlib import Path
from textwrap import indent

from astra_site import request_id

# What every record carries anyway; anything else came by ``extra``.
USUAL = frozenset(vars(logging.makeLogRecord({}))) | {
    *("message", "asctime", "taskName"),
    *("request", "server_time", "status_code"),  # put there by Django
}

#: Whatever would begin a line of its own, or command a terminal: a message may hold what a stranger wrote.
ESCAPES = {code: repr(chr(code))[1:-1] for code in (*range(32), *range(127, 160), 0x2028, 0x2029)}

#: Whoever has the address of a link in a mail may decide by it: what Django says of a request is not to tell it.
SECRET = re.compile(r"(/approvals/link/)[^/\s'\"?]+")


def process_name() -> str:
    """Return the command this process runs: ``web``, ``worker``, ``scheduler``, ``up`` …"""
    is_manage = Path(sys.argv[0]).name in ("manage.py", "django-admin")
    return sys.argv[1] if is_manage and len(sys.argv) > 1 else Path(sys.argv[0]).stem or "python"


class LineFormatter(logging.Formatter):
    """Format a record as one line (and a traceback indented below it, when there is one)."""

    def __init__(self) -> None:
        super().__init__()
        self.process = process_name()

    def format(self, record: logging.LogRecord) -> str:
        """Return ``12:00:00.123 INFO worker jobs.claim: Claimed a job. action=claim job=…``."""
        moment = f"{time.strftime('%H:%M:%S', time.localtime(record.created))}.{int(record.msecs):03d}"
        line = f"{moment} {record.levelname} {self.process} {record.name}: {record.getMessage().translate(ESCAPES)}"
        extra = {key: value for key, value in vars(record).items() if key not in USUAL}
        if current := request_id.current():
            extra.setdefault("request_id", current)
        line += "".join(f" {key}={_plain(str(value))}" for key, value in extra.items())
        if record.exc_info:
            line += "\n" + indent(self.formatException(record.exc_info), "  ", lambda _: True)
        return SECRET.sub(r"\1…", line)


def _plain(value: str) -> str:
    """Quote a value that would not read as one word."""
    return value if value and not any(c.isspace() or c in "\"'" for c in value) else repr(value)
