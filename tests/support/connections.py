"""Django's connections of a test process, after a test broke them."""

from __future__ import annotations

from asgiref.sync import SyncToAsync
from django.db import connection


def let_go() -> None:
    """Close what this thread and the thread of the asynchronous ORM hold, and the pool: the next use begins anew."""
    connection.close()
    # A lambda, because `connection` is another one in each thread.
    SyncToAsync.single_thread_executor.submit(lambda: connection.close()).result(10)
    connection.close_pool()  # type: ignore[attr-defined]
