"""Transactions written once, driven from synchronous and asynchronous code alike.

A *script* is a generator: it yields `(sql, params)` and gets the rows back as dictionaries; it yields `Wake(lane)` to
ask for a wake-up once the transaction has committed; `yield from` composes. Each driver runs a whole script in one
transaction, so a script never awaits the outside world.
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


Script = Generator["tuple[str, Params] | Wake", list[Row], T]


def run(script: Script[T]) -> T:
    """Run the script on Django's connection, in a transaction of its own or as a part of the surrounding one.

    Errors of the database are Django's, as from the ORM.
    """
    with transaction.atomic():
        connection.ensure_connection()
        # Errors come as Django's own, like those of the surrounding transaction.
        with connection.wrap_database_errors, connection.connection.cursor(row_factory=dict_row) as cursor:
            cursor.adapters.register_loader("jsonb", JsonbLoader)  # Django's own leaves jsonb as text
            result, lanes = _drive(cursor, script)
        if lanes:
            transaction.on_commit(functools.partial(wakeups.push, lanes))
    return result


def run_on(connection: Connection[Any], script: Script[T]) -> T:
    """Run the script on a connection of the caller's own, in one transaction; push its wake-ups after commit."""
    with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
        result, lanes = _drive(cursor, script)
    if lanes:
        wakeups.push(lanes)
    return result


def _drive(cursor: Cursor[Row], script: Script[T]) -> tuple[T, list[str]]:
    """Send the script's statements to the cursor. Returns its result and the lanes to wake."""
    lanes: list[str] = []
    rows: list[Row] | None = None
    while True:
        try:
            ask = script.send(rows)  # type: ignore[arg-type]  # None starts a generator
        except StopIteration as stop:
            return stop.value, lanes
        if isinstance(ask, Wake):
            lanes.append(ask.lane)
            rows = []
            continue
        cursor.execute(*ask)
        rows = cursor.fetchall() if cursor.description else []


async def arun(pool: AsyncConnectionPool[AsyncConnection[Row]], script: Script[T]) -> T:
    """Run the script on a connection of the pool, in one transaction; push its wake-ups after commit."""
    lanes: list[str] = []
    async with pool.connection() as conn, conn.transaction(), conn.cursor(row_factory=dict_row) as cursor:
        rows: list[Row] | None = None
        while True:
            try:
                ask = script.send(rows)  # type: ignore[arg-type]
            except StopIteration as stop:
                result: T = stop.value
                break
            if isinstance(ask, Wake):
                lanes.append(ask.lane)
                rows = []
                continue
            await cursor.execute(*ask)
            rows = await cursor.fetchall() if cursor.description else []
    if lanes:
        await wakeups.apush(lanes)
    return result
