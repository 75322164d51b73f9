"""The async connection pool of a process: the hot path's SQL goes through it, hundreds of runs over few connections."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from django.db import connection
from psycopg import AsyncConnection
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

logger = logging.getLogger(__name__)

Pool = AsyncConnectionPool[AsyncConnection[dict[str, Any]]]

MAX_SIZE = 8
#: PostgreSQL ends a session whose transaction stands still for so long: a process that was stopped in the middle of one
#: must not keep its locks past its lease.
IDLE_MS = 5000
_pools: dict[asyncio.AbstractEventLoop, Pool] = {}


def conninfo(**session: int) -> str:
    """Return where Django's default database is, as libpq reads it (tests have one of their own).

    ``session`` are settings of PostgreSQL's that hold for the connection, in its own units.
    """
    settings = connection.settings_dict
    options = {key: value for key, value in settings["OPTIONS"].items() if key not in ("pool", "assume_role")}
    session = {"idle_in_transaction_session_timeout": IDLE_MS, **session}
    words = [options.get("options", ""), "-c timezone=UTC", *(f"-c {name}={value}" for name, value in session.items())]
    return make_conninfo(
        **{
            "dbname": settings["NAME"],
            "user": settings["USER"],
            "password": settings["PASSWORD"],
            "host": settings["HOST"],
            "port": settings["PORT"],
            # A server that went away without a word is given up within half a minute.
            "connect_timeout": 5,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            **options,
            "options": " ".join(words).strip(),
        }
    )


async def get_pool() -> Pool:
    """Return the running loop's pool, opened at the first call."""
    loop = asyncio.get_running_loop()
    pool = _pools.get(loop)
    if pool is None:
        pool = AsyncConnectionPool(
            conninfo(),
            min_size=1,
            max_size=MAX_SIZE,
            open=False,
            timeout=10,
            # It gives up after two seconds and then begins anew: else whoever waits, waits for the whole timeout.
            reconnect_timeout=2,
            reconnect_failed=AsyncConnectionPool.check,
            kwargs={"autocommit": True, "row_factory": dict_row},
            name="astra",
        )
        _pools[loop] = pool
        await pool.open()
    return pool


async def drop_broken() -> None:
    """Take connections that an outage broke out of the pool, so that no one gets them one after the other."""
    await (await get_pool()).check()


async def close_pool() -> None:
    """Close the running loop's pool, if it has one."""
    pool = _pools.pop(asyncio.get_running_loop(), None)
    if pool is not None:
        await pool.close()
