"""A real PostgreSQL and a real Valkey inside the data directory, started for whoever needs them.

``servers(data_dir)`` is the door: it finds the servers that run on a data directory or starts them, and the last user
to leave stops them. Everything stays inside the data directory and one private run folder for the sockets.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from astra_site.embedded.errors import EmbeddedError
from astra_site.embedded.layout import Layout
from astra_site.embedded.users import Servers

__all__ = ["EmbeddedError", "Servers", "database_url", "redis_url", "servers"]


def database_url(data_dir: Path, name: str = "astra") -> str:
    """Return the libpq URL of database ``name`` on the embedded PostgreSQL of ``data_dir``, running or not."""
    return f"postgresql://astra@/{name}?host={quote(str(Layout(data_dir).run), safe='')}"


def redis_url(data_dir: Path, db: int = 0) -> str:
    """Return the URL of database ``db`` of the embedded Valkey of ``data_dir``, running or not."""
    return f"unix://{quote(str(Layout(data_dir).valkey_socket))}?db={db}"


@contextmanager
def servers(data_dir: Path, *, postgres: bool = True, valkey: bool = True, durable: bool = True) -> Iterator[Servers]:
    """Hold the embedded servers of ``data_dir`` up; start those that do not run, stop them if nobody else holds them.

    ``durable=False`` trades safety against a power cut for speed, for tests; it counts only for servers started here.
    Raises ``EmbeddedError``, a sentence for people, when a server cannot run.
    """
    held = Servers(data_dir, postgres=postgres, valkey=valkey, durable=durable)
    held.enter()
    try:
        yield held
    finally:
        held.leave()
