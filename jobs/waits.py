"""Resolve what parked jobs wait for."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from jobs.script import Row, Script
from jobs.states import State
from jobs.transitions import lock, make_ready


def resolve(job_id: UUID, key: str, result: Any, *, kind: str | None = None) -> Script[bool]:
    """Resolve one wait of a job; queue the job if it was the last. Returns False if there was nothing to resolve.

    Locks the job first: a result that comes while the job is still parking is not lost. One that comes before the wait
    is written is kept as a resolved wait, if ``kind`` says what it will be.
    """
    job = yield from lock(job_id)
    if job is None:
        return False
    rows = yield (
        "UPDATE jobs_wait SET resolved_at = now(), result = %s WHERE job_id = %s AND key = %s AND resolved_at IS NULL"
        " RETURNING id",
        [Jsonb(result), job_id, key],
    )
    if not rows:
        if kind is None:
            return False
        rows = yield (
            "INSERT INTO jobs_wait (job_id, kind, key, resolved_at, result) VALUES (%s, %s, %s, now(), %s)"
            " ON CONFLICT (job_id, key) DO NOTHING RETURNING id",
            [job_id, kind, key, Jsonb(result)],
        )
        if not rows:
            return False
    yield from _go_on(job)
    return True


def expire(job_id: UUID, key: str) -> Script[bool]:
    """Resolve one wait with nothing, because its time or its deadline has come. Returns False if it has not.

    Asks again under the lock: since it was found due, a redrive may have made way for a new wait of the same key.
    """
    job = yield from lock(job_id)
    if job is None:
        return False
    rows = yield (
        "UPDATE jobs_wait SET resolved_at = now(), result = 'null' WHERE job_id = %s AND key = %s"
        " AND resolved_at IS NULL AND until <= now() RETURNING id",
        [job_id, key],
    )
    if rows:
        yield from _go_on(job)
    return bool(rows)


def _go_on(job: Row) -> Script[None]:
    """Make a parked job ready if nothing is left to wait for."""
    if job["state"] != State.WAITING:
        return
    still = yield "SELECT 1 FROM jobs_wait WHERE job_id = %s AND resolved_at IS NULL LIMIT 1", [job["id"]]
    if not still:
        yield from make_ready(job, reason="resolved")


def due(limit: int = 200) -> Script[list[tuple[UUID, str]]]:
    """Return the waits whose time or deadline has come, as job and key."""
    rows = yield (
        "SELECT job_id, key FROM jobs_wait WHERE resolved_at IS NULL AND until <= now() ORDER BY until LIMIT %s",
        [limit],
    )
    return [(row["job_id"], row["key"]) for row in rows]
