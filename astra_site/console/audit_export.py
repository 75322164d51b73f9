"""The trail as a file: CSV for a spreadsheet, JSON lines for a program. Written while it is read."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from asgiref.sync import sync_to_async
from django.db import close_old_connections
from django.http import StreamingHttpResponse
from django.utils import timezone

from audit import reading
from audit.chain import content
from audit.reading import TrailFilter, TrailPage

#: One file has no more entries; its last line says where to go on.
MOST = 100_000
COLUMNS = (
    "id",
    "at",
    "actor_id",
    "actor_name",
    "token_id",
    "action",
    "target_type",
    "target_id",
    "note",
    "address",
    "request_id",
    "before",
    "after",
)
FORMATS = {"csv": "text/csv; charset=utf-8", "jsonl": "application/x-ndjson"}
#: A spreadsheet takes a cell that begins so for a formula, and runs it.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def answer(wanted: TrailFilter, kind: str, *, before: int | None = None) -> StreamingHttpResponse:
    """Return the entries that fit as a file, the newest first, `MOST` at most."""
    write = _csv if kind == "csv" else _jsonl
    response = StreamingHttpResponse(_stream(wanted, write, before, head=kind == "csv"), content_type=FORMATS[kind])
    name = f"astra-audit-{timezone.localtime():%Y-%m-%d-%H%M%S}.{kind}"
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    response["X-Accel-Buffering"] = "no"
    return response


Write = Callable[[list[dict[str, Any]]], str]


async def _stream(wanted: TrailFilter, write: Write, before: int | None, *, head: bool) -> AsyncIterator[str]:
    # The thread that the request was answered in is there until the last byte is sent: its connection goes back before,
    # or a few slow readers would hold all there are.
    await sync_to_async(close_old_connections)()
    if head:
        yield _lines([COLUMNS])
    pages = reading.walk(wanted, limit=MOST, before=before)
    last: TrailPage | None = None
    while (found := await sync_to_async(_next, thread_sensitive=False)(pages)) is not None:
        last = found
        if found.items:
            yield write([content(entry) for entry in found.items])
    if last is not None and last.next_before is not None:
        words = f"Not all: the file ends here. For older entries export again with before={last.next_before}."
        yield write([dict.fromkeys(COLUMNS) | {"note": words}])


def _next(pages: Iterator[TrailPage]) -> TrailPage | None:
    close_old_connections()
    try:
        return next(pages, None)
    finally:
        close_old_connections()


def _jsonl(rows: list[dict[str, Any]]) -> str:
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)


def _csv(rows: list[dict[str, Any]]) -> str:
    return _lines([[_cell(row[name]) for name in COLUMNS] for row in rows])


def _lines(rows: Any) -> str:
    written = io.StringIO()
    csv.writer(written).writerows(rows)
    return written.getvalue()


def _cell(value: Any) -> str:
    """Return a value as the text of a cell that no spreadsheet runs: before a formula stands an apostrophe."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) else text
