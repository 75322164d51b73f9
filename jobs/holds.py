"""Holds, and the other reasons why queued jobs may not start now."""

from __future__ import annotations

from uuid import UUID

from jobs.script import Row, Script
from jobs.states import State
from jobs.transitions import change, lock, reconsider

#: The key that every job has.
EVERYTHING = "all"
NO_WORKER = "no-worker:"


def place(key: str, reason: str, *, by: str, note: str = "") -> Script[bool]:
    """Place a hold. From now on no job with that key is claimed; a sweep marks the queued ones blocked.

    Returns:
        False if the same hold was there already.
    """
    rows = yield (
        "INSERT INTO jobs_hold (key, reason, note, placed_by) VALUES (%s, %s, %s, %s)"
        " ON CONFLICT (key, reason) DO NOTHING RETURNING id",
        [key, reason, note, by],
    )
    return bool(rows)


def lift(key: str, reason: str) -> Script[bool]:
    """Lift a hold. A sweep queues what nothing else stops. Returns False if there was none."""
    rows = yield "DELETE FROM jobs_hold WHERE key = %s AND reason = %s RETURNING id", [key, reason]
    return bool(rows)


# Each sweep below first finds a page of jobs, then locks and looks at one after the other, a transaction each: so it
# never holds two partitions at once, and any number of processes may sweep side by side.

# A live worker serves the lane / and has loaded what is required.
_SERVED = """
EXISTS (SELECT 1 FROM jobs_worker w WHERE w.ended_at IS NULL AND w.lease_until > now() AND {lane} = ANY(w.lanes))
"""
_SERVABLE = """
EXISTS (SELECT 1 FROM jobs_worker w WHERE w.ended_at IS NULL AND w.lease_until > now() AND {lane} = ANY(w.lanes)
        AND {requires} = ANY(w.capabilities))
"""


def held(limit: int = 500) -> Script[list[UUID]]:
    """Return queued jobs that a hold stops: they are to leave the head of their lane."""
    if not (yield "SELECT 1 FROM jobs_hold LIMIT 1", []):
        return []
    rows = yield (
        "SELECT id FROM jobs_job j WHERE state = 'queued'"
        " AND EXISTS (SELECT 1 FROM jobs_hold h WHERE h.key = ANY(j.hold_keys)) LIMIT %s",
        [limit],
    )
    return _ids(rows)


def unservable(limit: int = 500) -> Script[list[UUID]]:
    """Return queued jobs whose lane has live workers, none of which has loaded what the job requires.

    A lane without any live worker is another matter: its jobs simply wait.
    """
    rows = yield (
        "WITH wanted AS (SELECT DISTINCT lane, requires FROM jobs_job WHERE state = 'queued' AND requires IS NOT NULL),"
        " missing AS (SELECT lane, requires FROM wanted q WHERE "
        + _SERVED.format(lane="q.lane")
        + " AND NOT "
        + _SERVABLE.format(lane="q.lane", requires="q.requires")
        + ")"
        " SELECT j.id FROM jobs_job j JOIN missing m USING (lane, requires) WHERE j.state = 'queued' LIMIT %s",
        [limit],
    )
    return _ids(rows)


def block(job_id: UUID) -> Script[bool]:
    """Mark a queued job blocked for the holds on it, or because no worker can run it. False if neither is so."""
    job = yield from lock(job_id)
    if job is None or job["state"] != State.QUEUED:
        return False
    rows = yield "SELECT DISTINCT key FROM jobs_hold WHERE key = ANY(%s) ORDER BY key", [job["hold_keys"]]
    blocked_on = [f"hold:{row['key']}" for row in rows]
    served, servable = yield from _look_at_workers(job)
    if served and not servable:
        blocked_on.append(NO_WORKER + job["requires"])
    if not blocked_on:
        return False
    yield from change(job, State.BLOCKED, reason="held", blocked_on=blocked_on)
    return True


def unblockable(limit: int = 500) -> Script[list[UUID]]:
    """Return blocked jobs that nothing stops any more: a hold lifted, a partition's head gone, a worker that can.

    Reasons that only a person lifts are not looked at again and again.
    """
    rows = yield (
        "SELECT j.id FROM jobs_job j WHERE j.state = 'blocked'"
        # First, and by one list of all keys: most blocked jobs are held, and there may be very many of them.
        " AND NOT j.hold_keys && (SELECT coalesce(array_agg(key), '{}') FROM jobs_hold)"
        " AND NOT EXISTS (SELECT 1 FROM unnest(j.blocked_on) r"
        "                 WHERE r <> 'partition' AND r NOT LIKE 'hold:%%' AND r NOT LIKE 'no-worker:%%')"
        " AND (j.partition_key IS NULL OR NOT EXISTS (SELECT 1 FROM jobs_job o WHERE o.partition_key = j.partition_key"
        "      AND o.id <> j.id AND o.state IN ('scheduled', 'blocked', 'queued', 'running', 'waiting')"
        "      AND (o.state IN ('queued', 'running', 'waiting') OR o.id < j.id)))"
        " AND (j.requires IS NULL OR NOT EXISTS (SELECT 1 FROM unnest(j.blocked_on) r WHERE r LIKE 'no-worker:%%')"
        "      OR " + _SERVABLE.format(lane="j.lane", requires="j.requires") + ")"
        " ORDER BY j.id LIMIT %s",
        [limit],
    )
    return _ids(rows)


def unblock(job_id: UUID) -> Script[bool]:
    """Queue a blocked job if nothing stops it any more. Returns whether it was queued."""
    job = yield from lock(job_id)
    if job is None or job["state"] != State.BLOCKED:
        return False
    _, servable = yield from _look_at_workers(job)
    if servable:
        job["blocked_on"] = [reason for reason in job["blocked_on"] if not reason.startswith(NO_WORKER)]
    return (yield from reconsider(job))


def _look_at_workers(job: Row) -> Script[tuple[bool, bool]]:
    """Tell whether a live worker serves the job's lane, and whether one of them has loaded what it requires."""
    if job["requires"] is None:
        return True, True
    rows = yield (
        f"SELECT {_SERVED.format(lane='%s')} AS served, {_SERVABLE.format(lane='%s', requires='%s')} AS servable",
        [job["lane"], job["lane"], job["requires"]],
    )
    return rows[0]["served"], rows[0]["servable"]


def _ids(rows: list[Row]) -> list[UUID]:
    return [row["id"] for row in rows]
