"""Put a job in the queue: one transaction, then one wake-up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from jobs import handlers, lanes, script
from jobs.fairness import next_tag
from jobs.handlers import Claim
from jobs.ids import later_than, uuid7
from jobs.models.job import Priority
from jobs.retry import RetryPolicy
from jobs.script import Script, Wake
from jobs.states import State
from jobs.transitions import PARTITION, lock_partition


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A caller's key, whose it is, and what the request said: the same key with another body is a mistake."""

    scope: str
    key: str
    body_hash: str


@dataclass(frozen=True, slots=True)
class Submission:
    """What to do.

    ``with_job`` gives statements for the same transaction, for the rows that belong to the job. ``job_id`` is a
    proposal: a job of a partition gets a later one if need be, so that ids are in the partition's order whatever the
    clocks of the machines say.
    """

    handler: str
    payload: dict[str, Any]
    lane: str
    user_id: int | None = None
    priority: int = Priority.P1
    requires: str | None = None
    partition_key: str | None = None
    hold_keys: Sequence[str] = ()
    run_at: datetime | None = None
    #: None: as many as the handler's policy says.
    max_attempts: int | None = None
    time_limit_s: int | None = None
    idempotency: Idempotency | None = None
    max_depth: int | None = None
    with_job: Callable[[UUID], Script[None]] | None = None
    job_id: UUID = field(default_factory=uuid7)
    #: The worker that runs it at once: it never waits in its lane. None: whoever claims it.
    claimed_by: UUID | None = None
    #: The caller holds the partition's lock already.
    is_locked: bool = False


@dataclass(frozen=True, slots=True)
class Submitted:
    """The job that a submission made, or had made before (``created`` False).

    ``claim`` is that of the worker which the submission named, if it made the job.
    """

    job_id: UUID
    state: State
    created: bool
    claim: Claim | None = None


class IdempotencyMismatch(Exception):
    """The key was used for another request."""


class HeldBack(Exception):
    """The job cannot run at once, so it was not made. ``reasons`` are those of a blocked job."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__(f"it may not run now: {', '.join(reasons)}")
        self.reasons = reasons


class NotLeased(Exception):
    """The worker that would run the job has no lease now."""


class LaneFull(Exception):
    """The lane has as many queued jobs as it may have. Try again after ``retry_after_s`` seconds."""

    def __init__(self, lane: str, max_depth: int, retry_after_s: int) -> None:
        super().__init__(f"lane {lane} already has {max_depth} jobs waiting")
        self.lane, self.max_depth, self.retry_after_s = lane, max_depth, retry_after_s


def submit(submission: Submission) -> Submitted:
    """Write the job, or find the one its idempotency key made, and wake a worker on commit.

    Raises:
        IdempotencyMismatch: the key was used with another body.
        LaneFull: ``max_depth`` is reached.
        UnknownLane: there is no such lane.
    """
    return script.run(submit_script(submission))


def submit_script(submission: Submission) -> Script[Submitted]:
    """Write a submission, as a script that others may compose.

    Raises:
        As `submit`; HeldBack and NotLeased where it is to be claimed at once.
    """
    if not lanes.is_lane(submission.lane):
        raise lanes.UnknownLane(f"there is no lane {submission.lane!r}")
    if not submission.is_locked:
        yield from lock_partition(submission.partition_key)
    if submission.idempotency is not None:
        earlier = yield from _earlier(submission.idempotency)
        if earlier is not None:
            return earlier
    if submission.max_depth is not None:
        yield from _refuse_when_full(submission.lane, submission.max_depth)
    job_id, blocked_on = yield from _place(submission)
    if submission.claimed_by is not None:
        claim = yield from _insert_claimed(submission, job_id, submission.claimed_by, blocked_on)
        return Submitted(job_id, State.RUNNING, created=True, claim=claim)
    state = State.SCHEDULED if submission.run_at else State.BLOCKED if blocked_on else State.QUEUED
    if state is State.SCHEDULED:
        blocked_on = []
    tag = yield from next_tag(submission.lane, int(submission.priority), submission.user_id)
    yield (
        "WITH job AS (INSERT INTO jobs_job (id, handler, payload, user_id, state, lane, home_lane, priority, fair_tag,"
        " requires, partition_key, hold_keys, blocked_on, run_at, attempt, max_attempts, crashes, generation,"
        " time_limit_s, fence, queued_at)"
        " VALUES (%(id)s, %(handler)s, %(payload)s, %(user)s, %(state)s, %(lane)s, %(lane)s, %(priority)s, %(tag)s,"
        " %(requires)s, %(partition)s, %(holds)s, %(blocked_on)s, %(run_at)s, 0, %(max_attempts)s, 0, 1, %(limit)s, 0,"
        " CASE WHEN %(queued)s THEN now() END) RETURNING id)"
        " INSERT INTO jobs_jobevent (job_id, kind, old, new, fence, actor, reason)"
        " SELECT id, 'state', '', %(state)s, 0, '', 'submitted' FROM job",
        _columns(submission, job_id)
        | {
            "state": state.value,
            "queued": state is State.QUEUED,
            "tag": tag,
            "blocked_on": blocked_on,
            "run_at": submission.run_at,
        },
    )
    yield from _insert_what_belongs(submission, job_id)
    if state is State.QUEUED:
        yield Wake(submission.lane)
    return Submitted(job_id, state, created=True)


def _insert_claimed(submission: Submission, job_id: UUID, worker_id: UUID, blocked_on: list[str]) -> Script[Claim]:
    """Write a job as its worker's own: submitted and claimed in one."""
    if blocked_on:
        raise HeldBack(blocked_on)
    columns = _columns(submission, job_id)
    # The worker's row is share-locked, as by a claim: its lease cannot be declared lost in the middle.
    rows = yield (
        "WITH me AS (SELECT id FROM jobs_worker WHERE id = %(worker)s AND ended_at IS NULL AND lease_until > now()"
        " FOR KEY SHARE),"
        " job AS (INSERT INTO jobs_job (id, handler, payload, user_id, state, lane, home_lane, priority, fair_tag,"
        " requires, partition_key, hold_keys, blocked_on, attempt, max_attempts, crashes, generation, time_limit_s,"
        " fence, worker_id, queued_at, claimed_at, started_at)"
        " SELECT %(id)s, %(handler)s, %(payload)s, %(user)s, 'running', %(lane)s, %(lane)s, %(priority)s, 0,"
        " %(requires)s, %(partition)s, %(holds)s, '{}', 0, %(max_attempts)s, 0, 1, %(limit)s, 1, me.id, now(), now(),"
        " now() FROM me RETURNING id, created_at, worker_id),"
        " event AS (INSERT INTO jobs_jobevent (job_id, kind, old, new, fence, worker_id, actor, reason)"
        " SELECT id, 'state', '', 'queued', 0, NULL, '', 'submitted' FROM job"
        " UNION ALL SELECT id, 'state', 'queued', 'running', 1, worker_id, '', 'claimed' FROM job)"
        " SELECT created_at FROM job",
        columns | {"worker": worker_id},
    )
    if not rows:
        raise NotLeased(f"worker {worker_id} has no lease")
    yield from _insert_what_belongs(submission, job_id)
    return Claim(
        job_id=job_id,
        fence=1,
        handler=submission.handler,
        payload=submission.payload,
        user_id=submission.user_id,
        lane=submission.lane,
        home_lane=submission.lane,
        attempt=0,
        max_attempts=columns["max_attempts"],
        crashes=0,
        generation=1,
        time_limit_s=submission.time_limit_s,
        partition_key=submission.partition_key,
        worker_id=worker_id,
        created_at=rows[0]["created_at"],
        requires=submission.requires,
    )


def _columns(submission: Submission, job_id: UUID) -> dict[str, Any]:
    return {
        "id": job_id,
        "handler": submission.handler,
        "payload": Jsonb(submission.payload),
        "user": submission.user_id,
        "lane": submission.lane,
        "priority": int(submission.priority),
        "requires": submission.requires,
        "partition": submission.partition_key,
        "holds": list(submission.hold_keys),
        "max_attempts": submission.max_attempts or _attempts(submission.handler),
        "limit": submission.time_limit_s,
    }


def _insert_what_belongs(submission: Submission, job_id: UUID) -> Script[None]:
    if submission.with_job is not None:
        yield from submission.with_job(job_id)
    if submission.idempotency is not None:
        key = submission.idempotency
        yield (
            "INSERT INTO jobs_idempotencykey (scope, key, body_hash, job_id) VALUES (%s, %s, %s, %s)",
            [key.scope, key.key, key.body_hash, job_id],
        )


def _attempts(handler: str) -> int:
    try:
        return handlers.get(handler).retry.max_attempts
    except handlers.UnknownHandler:
        return RetryPolicy().max_attempts


def _earlier(key: Idempotency) -> Script[Submitted | None]:
    """Find what this key made before. Two requests at once with one key go one after the other."""
    yield "SELECT pg_advisory_xact_lock(hashtextextended(%s, 7202))", [f"{key.scope}\n{key.key}"]
    rows = yield (
        "SELECT k.body_hash, k.job_id, j.state, k.expires_at <= now() AS expired FROM jobs_idempotencykey k"
        " JOIN jobs_job j ON j.id = k.job_id WHERE k.scope = %s AND k.key = %s FOR UPDATE OF k",
        [key.scope, key.key],
    )
    if not rows:
        return None
    if rows[0]["expired"]:
        yield "DELETE FROM jobs_idempotencykey WHERE scope = %s AND key = %s", [key.scope, key.key]
        return None
    if rows[0]["body_hash"] != key.body_hash:
        raise IdempotencyMismatch(f"the idempotency key {key.key!r} was used for another request")
    return Submitted(rows[0]["job_id"], State(rows[0]["state"]), created=False)


def _refuse_when_full(lane: str, max_depth: int) -> Script[None]:
    rows = yield (
        "SELECT count(*) AS depth FROM (SELECT 1 FROM jobs_job WHERE lane = %s AND state = 'queued' LIMIT %s) q",
        [lane, max_depth],
    )
    if rows[0]["depth"] >= max_depth:
        recent = yield (
            "SELECT count(*) AS done FROM (SELECT 1 FROM jobs_job WHERE home_lane = %s"
            " AND finished_at > now() - interval '1 minute' LIMIT 600) q",
            [lane],
        )
        # As long as the lane needs for one job, at the rate of the last minute.
        raise LaneFull(lane, max_depth, max(1, min(60, round(60 / max(1, recent[0]["done"])))))


def _place(submission: Submission) -> Script[tuple[UUID, list[str]]]:
    """Return the job's id, and why it may not be queued yet. The caller holds the partition's lock."""
    job_id = submission.job_id
    blocked_on: list[str] = []
    if not submission.hold_keys and submission.partition_key is None:
        return job_id, blocked_on
    rows = yield (
        "(SELECT DISTINCT key, NULL::uuid AS last FROM jobs_hold WHERE key = ANY(%s) ORDER BY key) UNION ALL"
        " (SELECT NULL, id FROM jobs_job WHERE partition_key = %s"
        " AND state IN ('scheduled', 'blocked', 'queued', 'running', 'waiting') ORDER BY id DESC LIMIT 1)",
        [list(submission.hold_keys), submission.partition_key],
    )
    for row in rows:
        if row["last"] is None:
            blocked_on.append(f"hold:{row['key']}")
            continue
        blocked_on.append(PARTITION)
        if row["last"] > job_id:
            job_id = later_than(row["last"])
    return job_id, blocked_on
