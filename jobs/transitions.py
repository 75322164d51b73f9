"""Every change of a job's state, as scripts: guarded, recorded, with its handler's part in the same transaction."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from jobs import handlers, lanes
from jobs.fairness import front_tag, next_tag
from jobs.handlers import Outcome, Transition, subject_of
from jobs.script import Row, Script, Wake
from jobs.states import ENDED, LIVE, TRANSITIONS, State

PARTITION = "partition"
VERSION = "version"
UNKNOWN_HANDLER = "unknown-handler"

#: What a script needs to know of a job to change its state.
COLUMNS = (
    "id, handler, payload, user_id, state, lane, home_lane, priority, fair_tag, requires, partition_key, hold_keys, "
    "blocked_on, run_at, attempt, max_attempts, crashes, generation, time_limit_s, fence, worker_id, "
    "cancel_requested_at, created_at, finished_at"
)

_LIVE = tuple(sorted(LIVE))
#: So often a reply in the chat is begun, crashes or not: one that writes a little and kills its process then ends too.
MAX_CHAT_CLAIMS = 10
_ENDED = tuple(sorted(ENDED))


class IllegalTransition(AssertionError):
    """Code asked for a change that the table does not have. A bug, never a race: races lose the guard and get None."""


def lock_partition(key: str | None) -> Script[None]:
    """Take the transaction's advisory lock on a partition key. First of all locks, so that no two wait in a ring."""
    if key is not None:
        yield "SELECT pg_advisory_xact_lock(hashtextextended(%s, 7201))", [key]


def lock(job_id: UUID) -> Script[Row | None]:
    """Lock a job's partition, then its row, and return the row; None if there is no such job.

    The key never changes, so reading it before the lock is safe.
    """
    found = yield "SELECT partition_key FROM jobs_job WHERE id = %s", [job_id]
    if not found:
        return None
    yield from lock_partition(found[0]["partition_key"])
    rows = yield f"SELECT {COLUMNS} FROM jobs_job WHERE id = %s FOR NO KEY UPDATE", [job_id]
    return rows[0] if rows else None


def reasons(job: Row, *, keep: Iterable[str] = ()) -> Script[list[str]]:
    """Return why the job may not be queued now: holds on its keys, an older job of its partition, and ``keep``."""
    found = list(keep)
    if job["hold_keys"]:
        rows = yield "SELECT DISTINCT key FROM jobs_hold WHERE key = ANY(%s) ORDER BY key", [job["hold_keys"]]
        found += [f"hold:{row['key']}" for row in rows]
    if job["partition_key"] is not None:
        rows = yield (
            "SELECT 1 FROM jobs_job WHERE partition_key = %s AND id <> %s AND state = ANY(%s)"
            " AND (state IN ('queued', 'running', 'waiting') OR id < %s) LIMIT 1",
            [job["partition_key"], job["id"], list(_LIVE), job["id"]],
        )
        if rows:
            found.append(PARTITION)
    return found


def change(
    job: Row,
    new: State,
    *,
    reason: str,
    actor: str = "",
    outcome: Outcome | None = None,
    redrive: str = "",
    repeat_effects: bool = False,
    data: dict[str, Any] | None = None,
    blocked_on: Iterable[str] = (),
    sets: dict[str, Any] | None = None,
    tell_handler: bool = True,
) -> Script[None]:
    """Write one change of a job whose row is locked, its event, its handler's statements, and what follows from it.

    Args:
        sets: further columns to write. Columns that follow from the state are set here and nowhere else.
    """
    old = State(job["state"])
    if new not in TRANSITIONS[old]:
        raise IllegalTransition(f"{old} → {new} of {job['id']} ({reason})")
    columns: dict[str, Any] = {"state": new.value, "blocked_on": list(blocked_on), **(sets or {})}
    stamps = {"worker_id": "NULL"} if new is not State.RUNNING else {}
    lane = columns.get("lane") or job["lane"]
    if new is State.QUEUED:
        stamps["queued_at"] = "now()"
        columns |= {"run_at": None, "fair_tag": (yield from _tag(job, old, columns))}
    if new in ENDED and old not in ENDED:  # one that is given up ended when it failed
        stamps["finished_at"] = "now()"
    elif old in ENDED and new not in ENDED:
        stamps["finished_at"] = "NULL"
    assignments = ", ".join([*(f"{name} = %s" for name in columns), *(f"{n} = {sql}" for n, sql in stamps.items())])
    values = [Jsonb(value) if isinstance(value, dict) else value for value in columns.values()]
    written = yield (
        f"WITH changed AS (UPDATE jobs_job SET {assignments} WHERE id = %s AND state = %s RETURNING id, fence)"
        f"{_time_idempotency_key(old, new)}"
        " INSERT INTO jobs_jobevent (job_id, kind, old, new, fence, worker_id, actor, reason, data)"
        " SELECT id, 'state', %s, %s, fence, %s, %s, %s, %s FROM changed RETURNING id",
        [*values, job["id"], old, old, new, job["worker_id"], actor, reason, Jsonb(data) if data else None],
    )
    if not written:
        raise IllegalTransition(f"{job['id']} is no longer {old}: its row was not locked ({reason})")
    if tell_handler:
        yield from _tell_handler(job, old, new, reason, outcome, redrive, repeat_effects)
    if new is State.QUEUED:
        yield Wake(lane)
    if new in ENDED or new in (State.BLOCKED, State.SCHEDULED):
        yield from promote_partition(job["partition_key"])


def _tag(job: Row, old: State, columns: dict[str, Any]) -> Script[int]:
    """Return the job's new place in its lane. One that killed its process lets its neighbours go first."""
    lane = columns.get("lane") or job["lane"]
    if old is State.RUNNING and columns.get("crashes", 0) <= job["crashes"]:
        return (yield from front_tag(lane, job["priority"]))
    return (yield from next_tag(lane, job["priority"], job["user_id"]))


def _time_idempotency_key(old: State, new: State) -> str:
    """Let the key of a job that ends live for another day, and that of a job sent back as long as the job."""
    if new in ENDED:
        expiry = "now() + interval '24 hours'"
    elif old in ENDED:
        expiry = "NULL"
    else:
        return ""
    return f", key AS (UPDATE jobs_idempotencykey SET expires_at = {expiry} FROM changed WHERE job_id = changed.id)"


def _tell_handler(
    job: Row, old: State, new: State, reason: str, outcome: Outcome | None, redrive: str, repeat_effects: bool
) -> Script[None]:
    try:
        handler = handlers.get(job["handler"])
    except handlers.UnknownHandler:
        return  # a process that does not know the handler makes no change that the handler has a part in but this
    yield from handler.on_transition(
        Transition(job["id"], job["handler"], job["payload"], old, new, reason, outcome, redrive, repeat_effects)
    )


def promote_partition(key: str | None) -> Script[None]:
    """Queue the oldest job of the partition that waits for its turn, if nothing of the partition is active.

    The caller holds the partition's lock.
    """
    if key is None:
        return
    rows = yield (
        f"SELECT {COLUMNS} FROM jobs_job WHERE partition_key = %s AND state = ANY(%s) ORDER BY id LIMIT 1"
        " FOR NO KEY UPDATE",
        [key, list(_LIVE)],
    )
    if not rows or rows[0]["state"] != State.BLOCKED:
        return
    yield from reconsider(rows[0])


def reconsider(job: Row) -> Script[bool]:
    """Look again at a blocked job: queue it if nothing stops it any more, else keep the reasons true.

    Returns:
        True if it was queued. Reasons that only a person or a sweep of their own lifts are kept.
    """
    kept = [reason for reason in job["blocked_on"] if reason != PARTITION and not reason.startswith("hold:")]
    now = yield from reasons(job, keep=kept)
    if not now:
        yield from change(job, State.QUEUED, reason="unblocked")
        return True
    if sorted(now) != sorted(job["blocked_on"]):
        yield "UPDATE jobs_job SET blocked_on = %s WHERE id = %s", [now, job["id"]]
    return False


def make_ready(job: Row, *, reason: str, **kwargs: Any) -> Script[State]:
    """Queue a job that is due, resolved or redriven, or block it for the reasons there are. Returns its new state."""
    blocked_on = yield from reasons(job)
    new = State.BLOCKED if blocked_on else State.QUEUED
    yield from change(job, new, reason=reason, blocked_on=blocked_on, **kwargs)
    return new


def release(job: Row, *, how: str) -> Script[State]:
    """Take a running job from an owner that is gone. The row is locked.

    A job of a normal lane becomes a suspect and is charged nothing. Only a crash in lane `suspect`, where it was alone
    in its process, counts: after as many as it has attempts it is a dead letter. A person waits for a job of lane
    `chat`: it stays there for the next web process, and each crash counts, until it gets on again; but no job of that
    lane is begun more than `MAX_CHAT_CLAIMS` times, not counting that it goes on after a wait. An owner that stopped in
    good order has not crashed.
    """
    if job["cancel_requested_at"] is not None:
        yield from change(job, State.CANCELLED, reason=how)
        return State.CANCELLED
    if how == "worker-stopped":
        yield from change(job, State.QUEUED, reason=how)
        return State.QUEUED
    stays = job["lane"] in (lanes.SUSPECT, lanes.CHAT)
    crashes = job["crashes"] + stays
    begun = job["fence"] - (yield from _parked(job)) if job["lane"] == lanes.CHAT else 0
    if crashes >= job["max_attempts"] or begun >= MAX_CHAT_CLAIMS:
        in_a_row = f"{crashes} times in a row without finishing another step"
        problem = {
            "type": "/problems/worker-died",
            "title": "Its process died each time",
            "detail": "The process that ran it died "
            + (in_a_row if crashes >= job["max_attempts"] else f"again, and it was begun {begun} times")
            + ".",
            "fingerprint": f"worker-died:{subject_of(job['handler'], job['requires'])}",
            "retriable": False,
        }
        yield from change(job, State.DEAD, reason=how, data=problem, sets={"crashes": crashes, "error": problem})
        return State.DEAD
    yield from change(
        job, State.QUEUED, reason=how, sets={"crashes": crashes, "lane": job["lane"] if stays else lanes.SUSPECT}
    )
    return State.QUEUED


def _parked(job: Row) -> Script[int]:
    """Return how often a job has parked."""
    rows = yield (
        "SELECT count(*) AS times FROM jobs_jobevent WHERE job_id = %s AND kind = 'state' AND new = 'waiting'",
        [job["id"]],
    )
    return int(rows[0]["times"])
