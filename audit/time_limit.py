"""Give up what takes the database too long."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import psycopg
from django.db import OperationalError, connection, transaction

T = TypeVar("T")


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Give up a statement within that takes longer: it fails as cancelled, and what was done within is undone."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            "SELECT current_setting('statement_timeout'), set_config('statement_timeout', %s, true)",
            [f"{seconds * 1000:.0f}ms"],
        )
        before = cursor.fetchone()[0]
        yield
        cursor.execute("SELECT set_config('statement_timeout', %s, true)", [before])


def took_too_long(error: BaseException) -> bool:
    """Tell whether the error is that of a statement which was given up."""
    return isinstance(error.__cause__, psycopg.errors.QueryCanceled)


def in_time(seconds: float, read: Callable[[], T]) -> T | None:
    """Return what is read; None if a statement of it takes longer than so many seconds."""
    try:
        with at_most(seconds):
            return read()
    except OperationalError as error:
        if not took_too_long(error):
            raise
        return None
