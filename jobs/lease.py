"""Workers' rows and their leases, in the database's time."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Sequence
from uuid import UUID, uuid4

from psycopg.types.json import Jsonb

from jobs import script
from jobs.script import Row, Script
from jobs.states import State
from jobs.transitions import COLUMNS, change, lock, lock_partition, release

logger = logging.getLogger(__name__)

#: How long a lease holds after its last renewal, and how often it is renewed. Seconds.
LEASE_S = 6.0
RENEW_S = 2.0


def register(
    slots: dict[str, int], capabilities: Sequence[str], version: str, *, pid: int | None = None
) -> Script[UUID]:
    """Write a worker's row and begin its lease. Returns its id."""
    worker_id = uuid4()
    yield (
        "INSERT INTO jobs_worker (id, hostname, pid, slots, lanes, capabilities, version, started_at, seen_at,"
        ' lease_until, "end")'
        " VALUES (%s, %s, %s, %s, %s, %s, %s, now(), now(), now() + make_interval(secs => %s), '')",
        [
            worker_id,
            socket.gethostname(),
            pid or os.getpid(),
            Jsonb(slots),
            list(slots),
            list(capabilities),
            version,
            LEASE_S,
        ],
    )
    return worker_id


def renew(worker_id: UUID) -> Script[list[UUID] | None]:
    """Renew the lease. Returns the running jobs that were asked to stop, or None if the lease was declared lost."""
    rows = yield (
        "UPDATE jobs_worker SET seen_at = now(), lease_until = now() + make_interval(secs => %s)"
        " WHERE id = %s AND ended_at IS NULL RETURNING id",
        [LEASE_S, worker_id],
    )
    if not rows:
        return None
    return (yield from asked_to_stop(worker_id))


def asked_to_stop(worker_id: UUID) -> Script[list[UUID]]:
    """Return the worker's running jobs that somebody wants to stop."""
    rows = yield (
        "SELECT id FROM jobs_job WHERE worker_id = %s AND state = 'running' AND cancel_requested_at IS NOT NULL",
        [worker_id],
    )
    return [row["id"] for row in rows]


def held(worker_id: UUID, *, older_than_s: float) -> Script[list[tuple[UUID, int]]]:
    """Return the jobs that the worker has held for longer than that, as id and fence."""
    rows = yield (
        "SELECT id, fence FROM jobs_job WHERE worker_id = %s AND state = 'running'"
        " AND claimed_at < now() - make_interval(secs => %s)",
        [worker_id, older_than_s],
    )
    return [(row["id"], row["fence"]) for row in rows]


def hand_back(job_id: UUID, fence: int) -> Script[bool]:
    """Queue a job again that its own worker holds but does not run: the answer to its claim was lost on the way."""
    job = yield from lock(job_id)
    if job is None or job["fence"] != fence or job["state"] != State.RUNNING:
        return False
    new = State.CANCELLED if job["cancel_requested_at"] is not None else State.QUEUED
    yield from change(job, new, reason="orphaned")
    return True


def update_capabilities(worker_id: UUID, capabilities: Sequence[str]) -> Script[None]:
    """Say what the worker has loaded now."""
    yield (
        "UPDATE jobs_worker SET capabilities = %s WHERE id = %s AND capabilities <> %s",
        [list(capabilities), worker_id, list(capabilities)],
    )


def end(worker_id: UUID, how: str) -> Script[int]:
    """End a worker's row (`stopped`, `lost`, `died`) and take from it what it still holds. Returns how many jobs.

    Locking the row first keeps claims out: a claim share-locks it and finds the lease over afterwards. One transaction
    for a few hundred jobs at most, for that is what one process holds.
    """
    rows = yield "SELECT id FROM jobs_worker WHERE id = %s AND ended_at IS NULL FOR UPDATE", [worker_id]
    if not rows:
        return 0
    yield 'UPDATE jobs_worker SET ended_at = now(), "end" = %s WHERE id = %s', [how, worker_id]
    held = yield (
        "SELECT id, partition_key FROM jobs_job WHERE worker_id = %s AND state = 'running' ORDER BY partition_key, id",
        [worker_id],
    )
    for key in sorted({row["partition_key"] for row in held if row["partition_key"] is not None}):
        yield from lock_partition(key)
    count = 0
    for row in held:
        locked = yield (
            f"SELECT {COLUMNS} FROM jobs_job WHERE id = %s AND worker_id = %s AND state = 'running' FOR NO KEY UPDATE",
            [row["id"], worker_id],
        )
        if locked:
            yield from _release(locked[0], how)
            count += 1
    return count


def _release(job: Row, how: str) -> Script[None]:
    reason = {"lost": "lease-lost", "died": "worker-died", "stopped": "worker-stopped"}[how]
    new = yield from release(job, how=reason)
    extra = {"action": "job_released", "job": str(job["id"])}
    logger.warning("job %s: %s, now %s", job["id"], reason, new, extra=extra)


def close_expired(worker_id: UUID) -> Script[bool]:
    """End an overdue worker's row and leave its jobs to `abandoned`: for when one of them can't be taken with it."""
    rows = yield (
        "UPDATE jobs_worker SET ended_at = now(), \"end\" = 'lost'"
        " WHERE id = %s AND ended_at IS NULL AND lease_until < now() RETURNING id",
        [worker_id],
    )
    return bool(rows)


def abandoned(limit: int = 500) -> Script[list[UUID]]:
    """Return running jobs whose worker has ended."""
    rows = yield (
        "SELECT j.id FROM jobs_job j JOIN jobs_worker w ON w.id = j.worker_id"
        " WHERE j.state = 'running' AND w.ended_at IS NOT NULL LIMIT %s",
        [limit],
    )
    return [row["id"] for row in rows]


def take_abandoned(job_id: UUID) -> Script[bool]:
    """Take one job from a worker that has ended. Returns False if somebody else has."""
    job = yield from lock(job_id)
    if job is None or job["state"] != State.RUNNING:
        return False
    rows = yield 'SELECT "end" FROM jobs_worker WHERE id = %s AND ended_at IS NOT NULL', [job["worker_id"]]
    if rows:
        yield from _release(job, rows[0]["end"])
    return bool(rows)


def expired() -> Script[list[UUID]]:
    """Return the workers whose lease is over."""
    rows = yield (
        "SELECT id FROM jobs_worker WHERE ended_at IS NULL AND lease_until < now() ORDER BY lease_until LIMIT 100",
        [],
    )
    return [row["id"] for row in rows]


def release_dead(*, pid: int, hostname: str | None = None, how: str = "died") -> int:
    """Take the jobs of a process that is known to be dead, without waiting for its lease. Returns how many."""
    return _end_where("pid = %s AND hostname = %s", [pid, hostname or socket.gethostname()], how)


def release_all() -> int:
    """Take the jobs of every worker. Only for whoever knows that none runs: `up`, alone on its data directory."""
    return _end_where("true", [], "died")


def _end_where(condition: str, params: list[object], how: str) -> int:
    def find() -> Script[list[UUID]]:
        rows = yield f"SELECT id FROM jobs_worker WHERE ended_at IS NULL AND {condition}", params
        return [row["id"] for row in rows]

    return sum(script.run(end(worker_id, how)) for worker_id in script.run(find()))
