"""What a worker does to a job: claim it, write under its fence, finish it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from jobs.handlers import (
    Blocked,
    Cancelled,
    Claim,
    Failed,
    HandedBack,
    Outcome,
    Parked,
    Succeeded,
    get,
)
from jobs.retry import RetryPolicy
from jobs.script import Row, Script
from jobs.states import State
from jobs.transitions import COLUMNS, change, lock_partition, make_ready

# One statement: the worker's row is share-locked (so that its lease cannot be declared lost in the middle), the best
# eligible rows of the lane are taken past rows that others hold, and the events are written with them. The limit is a
# part of the text: for a parameter the planner would have to guess.
_CLAIM = """
WITH me AS (
    SELECT id, capabilities FROM jobs_worker
    WHERE id = %(worker)s AND ended_at IS NULL AND lease_until > now()
    FOR KEY SHARE
), best AS (
    SELECT j.id FROM jobs_job j, me
    WHERE j.state = 'queued' AND j.lane = %(lane)s
      AND (j.requires IS NULL OR j.requires = ANY(me.capabilities))
      AND NOT EXISTS (SELECT 1 FROM jobs_hold h WHERE h.key = ANY(j.hold_keys))
    ORDER BY j.priority, j.fair_tag, j.id
    LIMIT {limit:d}
    FOR NO KEY UPDATE OF j SKIP LOCKED
), claimed AS (
    UPDATE jobs_job j
    SET state = 'running', fence = j.fence + 1, worker_id = %(worker)s, claimed_at = now(),
        started_at = coalesce(j.started_at, now())
    FROM best WHERE j.id = best.id
    RETURNING j.*
), event AS (
    INSERT INTO jobs_jobevent (job_id, kind, old, new, fence, worker_id, actor, reason)
    SELECT id, 'state', 'queued', 'running', fence, worker_id, '', 'claimed' FROM claimed
)
SELECT id, fence, handler, payload, user_id, lane, home_lane, attempt, max_attempts, crashes, generation, time_limit_s,
       partition_key, worker_id, created_at, requires
FROM claimed
ORDER BY priority, fair_tag, id
"""


def claim(worker_id: UUID, lane: str) -> Script[Claim | None]:
    """Claim the best eligible job of the lane; None if there is none, or if the worker's lease is over."""
    claims = yield from claim_some(worker_id, lane, 1)
    return claims[0] if claims else None


def claim_some(worker_id: UUID, lane: str, limit: int) -> Script[list[Claim]]:
    """Claim the best eligible jobs of the lane, best first, ``limit`` at most; none if the worker's lease is over."""
    rows = yield _CLAIM.format(limit=limit), {"worker": worker_id, "lane": lane}
    return [_as_claim(row) for row in rows]


def _as_claim(row: Row) -> Claim:
    values = dict(row)
    values["job_id"] = values.pop("id")
    return Claim(**values)


class StaleFence(Exception):
    """Somebody else owns the job now, or nobody: what this owner wanted to write was not written."""


def fenced(claim: Claim, *, exclusive: bool = False) -> Script[None]:
    """Hold the job for the rest of the transaction on behalf of its owner.

    The share lock lets the owner's writes go side by side and makes whoever would take the job away wait for them.
    A script that goes on to update the row itself asks for the exclusive lock at once, so that two of them never wait
    for each other.

    Raises:
        StaleFence: the fence is an old one.
    """
    rows = yield (
        "SELECT 1 FROM jobs_job WHERE id = %s AND fence = %s AND state = 'running' FOR "
        + ("NO KEY UPDATE" if exclusive else "SHARE"),
        [claim.job_id, claim.fence],
    )
    if not rows:
        raise StaleFence(f"job {claim.job_id}: fence {claim.fence} is stale")


def finish(claim: Claim, outcome: Outcome) -> Script[bool]:
    """Write what became of a claimed job. Returns False, and changes nothing, if the claim is stale.

    A job that was asked to stop is cancelled whatever it came to, unless it had succeeded by then.
    """
    job = yield from _owned(claim)
    if job is None:
        return False
    if isinstance(outcome, Succeeded):
        yield from change(job, State.SUCCEEDED, reason="finished", outcome=outcome, sets={"error": None})
    elif job["cancel_requested_at"] is not None or isinstance(outcome, Cancelled):
        yield from change(job, State.CANCELLED, reason="cancelled", outcome=outcome)
    elif isinstance(outcome, HandedBack):
        yield from change(job, State.QUEUED, reason="handed-back", outcome=outcome)
    elif isinstance(outcome, Failed):
        yield from _fail(job, outcome)
    elif isinstance(outcome, Parked):
        yield from _park(job, outcome)
    elif isinstance(outcome, Blocked):
        yield from _block(job, outcome)
    else:
        raise TypeError(f"{outcome!r} is no outcome")
    return True


def _owned(claim: Claim) -> Script[Row | None]:
    """Lock the job's partition and its row and return the row; None if the claim is stale."""
    yield from lock_partition(claim.partition_key)
    rows = yield (
        f"SELECT {COLUMNS} FROM jobs_job WHERE id = %s AND fence = %s AND state = 'running' FOR NO KEY UPDATE",
        [claim.job_id, claim.fence],
    )
    return rows[0] if rows else None


def _fail(job: Row, outcome: Failed) -> Script[None]:
    attempt = job["attempt"] + 1
    sets: dict[str, Any] = {"attempt": attempt, "error": outcome.problem}
    if not outcome.retriable or attempt >= job["max_attempts"]:
        yield from change(job, State.DEAD, reason="failed", outcome=outcome, data=outcome.problem, sets=sets)
        return
    try:
        policy = get(job["handler"]).retry
    except LookupError:
        policy = RetryPolicy()
    delay_s = policy.delay_s(attempt, retry_after_s=outcome.retry_after_s)
    rows = yield "SELECT now() + make_interval(secs => %s) AS at", [delay_s]
    yield from change(
        job,
        State.SCHEDULED,
        reason="retry",
        outcome=outcome,
        data={**outcome.problem, "delay_s": round(delay_s, 1)},
        sets={**sets, "run_at": rows[0]["at"], "lane": job["home_lane"]},
    )


def _park(job: Row, outcome: Parked) -> Script[None]:
    """Write the waits and leave the worker. A wait that was resolved before is not opened again.

    These are all it waits for: what an earlier generation asked for and this one does not is no longer of interest.
    """
    yield (
        "DELETE FROM jobs_wait WHERE job_id = %s AND resolved_at IS NULL AND NOT key = ANY(%s)",
        [job["id"], [wait.key for wait in outcome.waits]],
    )
    for wait in outcome.waits:
        yield (
            "INSERT INTO jobs_wait (job_id, kind, key, until) VALUES (%s, %s, %s, %s)"
            " ON CONFLICT (job_id, key) DO NOTHING",
            [job["id"], wait.kind, wait.key, wait.until],
        )
    waits = [{"kind": wait.kind, "key": wait.key} for wait in outcome.waits]
    yield from change(
        job, State.WAITING, reason="parked", outcome=outcome, data={"waits": waits}, sets={"lane": job["home_lane"]}
    )
    open_waits = yield "SELECT 1 FROM jobs_wait WHERE job_id = %s AND resolved_at IS NULL LIMIT 1", [job["id"]]
    if not open_waits:
        parked = {**job, "state": State.WAITING, "worker_id": None, "lane": job["home_lane"]}
        yield from make_ready(parked, reason="resolved")


def _block(job: Row, outcome: Blocked) -> Script[None]:
    sets: dict[str, Any] = {"lane": job["home_lane"]}
    if outcome.problem is not None:
        sets["error"] = outcome.problem
    yield from change(
        job,
        State.BLOCKED,
        reason=outcome.reason,
        outcome=outcome,
        data=outcome.problem,
        blocked_on=[outcome.reason],
        sets=sets,
    )


def give_up(claim: Claim, problem: dict[str, Any]) -> Script[bool]:
    """Make a dead letter of a job whose handler refuses its own part of every outcome: it must not run for ever.

    The handler has no part in it. Returns False, and changes nothing, if the claim is stale.
    """
    job = yield from _owned(claim)
    if job is None:
        return False
    sets = {"attempt": job["attempt"] + 1, "error": problem}
    yield from change(job, State.DEAD, reason="failed", data=problem, sets=sets, tell_handler=False)
    return True


def note_event(claim: Claim, kind: str, reason: str, data: dict[str, Any] | None) -> Script[None]:
    """Write an event of a running job. Call under `fenced`."""
    yield (
        "INSERT INTO jobs_jobevent (job_id, kind, old, new, fence, worker_id, actor, reason, data)"
        " VALUES (%s, %s, '', '', %s, %s, '', %s, %s)",
        [claim.job_id, kind, claim.fence, claim.worker_id, reason, Jsonb(data) if data is not None else None],
    )


def forget_crashes(claim: Claim) -> Script[None]:
    """Start the count of crashes anew after a newly recorded step: progress is not failure. Call under `fenced`."""
    yield "UPDATE jobs_job SET crashes = 0 WHERE id = %s AND crashes > 0", [claim.job_id]


def report_progress(claim: Claim, progress: dict[str, Any]) -> Script[None]:
    """Write how far a job is, for whoever watches.

    Raises:
        StaleFence: the claim is stale.
    """
    yield from fenced(claim, exclusive=True)
    yield "UPDATE jobs_job SET progress = %s WHERE id = %s", [Jsonb(progress), claim.job_id]
    yield from note_event(claim, "progress", "", progress)
