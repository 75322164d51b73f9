"""Ask PostgreSQL on behalf of somebody who waits: a restart is ridden out, an outage is told soon."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from asgiref.sync import sync_to_async
from django.db import OperationalError, close_old_connections, connection
from psycopg_pool import PoolTimeout

from jobs import script
from jobs.pool import drop_broken, get_pool
from jobs.runner import OUTAGE
from jobs.script import Script

#: So long a database is waited for that was away a moment ago. Seconds.
PATIENCE_S = 1.0
#: So long a connection is waited for otherwise. Seconds.
WAIT_S = 4.0

T = TypeVar("T")
_was_away = False


async def ask(make: Callable[[], Script[T]]) -> T:
    """Run the script that ``make()`` returns; once more if its connection was broken by an outage that is over.

    It must be safe to run twice: a commit whose answer was lost may have been written.

    Raises:
        OUTAGE: the database does not answer.
    """
    global _was_away
    pool = await get_pool()
    try:
        if not _was_away:
            return await script.arun(pool, make(), timeout_s=WAIT_S)
    except OUTAGE:
        _was_away = True
    await drop_broken()
    async with pool.connection(timeout=PATIENCE_S):
        _was_away = False
    return await script.arun(pool, make())


async def in_thread(call: Callable[..., T], *args: Any) -> T:
    """Call in a thread where it may use the ORM, and that keeps no connection for itself.

    It is called once more if it was given a connection that an outage broke: it must be safe to call twice.
    """
    return await sync_to_async(_work, thread_sensitive=False)(call, args)


def _work(call: Callable[..., T], args: tuple[Any, ...]) -> T:
    close_old_connections()
    try:
        try:
            return call(*args)
        except OperationalError as error:
            if isinstance(error.__cause__, PoolTimeout):
                raise  # nobody is there
            connection.close()
            if (pool := connection.pool) is not None:  # type: ignore[attr-defined]
                pool.check()
            return call(*args)
    finally:
        close_old_connections()
