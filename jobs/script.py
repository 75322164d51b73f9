"""Transactions written once, driven from synchronous and asynchronous code alike.

A *script* is a generator: it yields `(sql, params)` and gets the rows back as dictionaries; it yields `Wake(lane)` to
ask for a wake-up once the transaction has committed, or `Tell(channel, message)` for a message; `yield from` composes.
Each driver runs a whole script in one transaction, so a script never awaits the outside world.
"""

from __future__ import annotations

import functools
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from django.db import connection, transaction
from psycopg import AsyncConnection, Connection, Cursor
from psycopg.rows import dict_row
from psycopg.types.json import JsonbLoader
from psycopg_pool import AsyncConnectionPool

from jobs import wakeups

Row = dict[str, Any]
Params = Sequence[Any] | Mapping[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Wake:
    """Ask for one wake-up of the lane after commit."""

    lane: str


@dataclass(frozen=True, slots=True)
class Tell:
    """Ask for one message on a channel of Redis after commit, for whoever listens then. ``message`` is plain JSON."""

    channel: str
    message: Any


After = Wake | Tell
Script = Generator["tuple[str, Params] | After", list[Row], T]


def run(script: Script[T]) -> T:
    """Run the script on Django's connection, in a transaction of its own or as a part of the surrounding one.

    Errors of the database are Django's, as from the ORM.
    """
    with transaction.atomic():
        connection.ensure_connection()
        # Errors come as Django's own, like those of the surrounding transaction.
        with connection.wrap_database_errors, connection.connection.cursor(row_factory=dict_row) as cursor:
            cursor.adapters.register_loader("jsonb", JsonbLoader)  # Django's own leaves jsonb as text
            result, after = _drive(cursor, script)
        if after:
            transaction.on_commit(functools.partial(_say, after))
    return result


def run_on(connection: Connection[Any], script: Script[T]) -> T:
    """Run the script on a connection of the caller's own, in one transaction; push its wake-ups after commit."""
    with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
        result, after = _drive(cursor, script)
    if after:
        _say(after)
    return result


def _say(after: Sequence[After]) -> None:
    wakeups.push([ask.lane for ask in after if isinstance(ask, Wake)])
    wakeups.tell([(ask.channel, ask.message) for ask in after if isinstance(ask, Tell)])


def _drive(cursor: Cursor[Row], script: Script[T]) -> tuple[T, list[After]]:
    """Send the script's statements to the cursor. Returns its result and what is to be said after commit."""
    after: list[After] = []
    rows: list[Row] | None = None
    while True:
        try:
            ask = script.send(rows)  # type: ignore[arg-type]  # None starts a generator
        except StopIteration as stop:
            return stop.value, after
        if isinstance(ask, After):
            after.append(ask)
            rows = []
            continue
        cursor.execute(*ask)
        rows = cursor.fetchall() if cursor.description else []


async def arun(
    pool: AsyncConnectionPool[AsyncConnection[Row]], script: Script[T], *, timeout_s: float | None = None
) -> T:
    """Run the script on a connection of the pool, in one transaction; push its wake-ups after commit.

    ``timeout_s`` is how long a connection is waited for; None is the pool's own time.
    """
    after: list[After] = []
    async with pool.connection(timeout_s) as conn, conn.transaction(), conn.cursor(row_factory=dict_row) as cursor:
        rows: list[Row] | None = None
        while True:
            try:
                ask = script.send(rows)  # type: ignore[arg-type]
            except StopIteration as stop:
                result: T = stop.value
                break
            if isinstance(ask, After):
                after.append(ask)
                rows = []
                continue
            await cursor.execute(*ask)
            rows = await cursor.fetchall() if cursor.description else []
    if after:
        await wakeups.in_thread(_say, after)
    return result
