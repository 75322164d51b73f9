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
_pools: dict[asyncio.AbstractEventLoop, Pool] = {}


def conninfo() -> str:
    """Return where Django's default database is, as libpq reads it (tests have one of their own)."""
    settings = connection.settings_dict
    options = {key: value for key, value in settings["OPTIONS"].items() if key not in ("pool", "assume_role")}
    return make_conninfo(
        **{
            "dbname": settings["NAME"],
            "user": settings["USER"],
            "password": settings["PASSWORD"],
            "host": settings["HOST"],
            "port": settings["PORT"],
            **options,
            "options": "-c timezone=UTC",
            "connect_timeout": 5,
            "keepalives_idle": 10,
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
            reconnect_timeout=2,
            kwargs={"autocommit": True, "row_factory": dict_row},
            name="astra",
        )
        _pools[loop] = pool
        await pool.open()
    return pool


async def close_pool() -> None:
    """Close the running loop's pool, if it has one."""
    pool = _pools.pop(asyncio.get_running_loop(), None)
    if pool is not None:
        await pool.close()
