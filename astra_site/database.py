"""Turn a libpq URL into Django's database settings."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ImproperlyConfigured

# As many connections as one process may hold in Django's own pool. A worker's agents use a second, async pool.
POOL = {"min_size": 0, "max_size": 8, "timeout": 10, "max_idle": 60, "reconnect_timeout": 2}
FIELDS = {"dbname": "NAME", "user": "USER", "password": "PASSWORD", "host": "HOST", "port": "PORT"}


def django_database(url: str) -> dict[str, Any]:
    """Return the entry of ``DATABASES`` for ``url``, pooled.

    ``CONN_MAX_AGE`` is 0 because the pool keeps the connections, and health checks are off because with the pool they
    make a restart of PostgreSQL slower: each dead connection would wait for its own back-off.
    """
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    try:
        parts = conninfo_to_dict(url)
    except ProgrammingError:
        raise ImproperlyConfigured("DATABASE_URL is not a valid PostgreSQL URL.") from None
    database: dict[str, Any] = {
        "ENGINE": "django.db.backends.postgresql",
        "CONN_MAX_AGE": 0,
        "CONN_HEALTH_CHECKS": False,
        "OPTIONS": {"pool": POOL},
    }
    for key, value in parts.items():
        if key in FIELDS:
            database[FIELDS[key]] = str(value)
        else:
            database["OPTIONS"][key] = value
    if not database.get("NAME"):
        raise ImproperlyConfigured("DATABASE_URL names no database: it ends like /name.")
    return database
