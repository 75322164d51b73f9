"""Whether PostgreSQL and Redis can be reached, tried by hand, and why not."""

from __future__ import annotations

import psycopg
import redis
from django.conf import settings
from psycopg.conninfo import make_conninfo

SECONDS = 3


def database_fault() -> str:
    """Return why PostgreSQL cannot be reached, a sentence, or nothing."""
    try:
        psycopg.connect(make_conninfo(settings.DATABASE_URL, connect_timeout=SECONDS)).close()
    except psycopg.Error as error:
        return f"The database of DATABASE_URL does not answer: {_first_line(error)}."
    return ""


def redis_fault() -> str:
    """Return why Redis cannot be reached, a sentence, or nothing."""
    try:
        with redis.Redis.from_url(settings.REDIS_URL, socket_timeout=SECONDS, socket_connect_timeout=SECONDS) as client:
            client.ping()
    except (redis.RedisError, ValueError) as error:
        return f"The Redis of REDIS_URL does not answer: {_first_line(error)}."
    return ""


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
