"""Do what operators asked for of many jobs: in a thread of its own in every scheduler process.

An operation is taken by a short lease and worked on for a moment, then the next has its turn. Each job is changed in
one transaction with its count and the place that the operation has come to, so whoever goes on after a crash neither
repeats a job nor counts one twice.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from django.contrib.auth import get_user_model
from django.db import Error as DatabaseError
from django.db import InterfaceError, OperationalError, close_old_connections, connection, transaction
from psycopg.types.json import Jsonb

from accounts import roles
from audit import trail
from audit.time_limit import at_most, took_too_long
from audit.trail import SYSTEM, Actor
from jobs import bulk_refusals, script
from jobs.actions import Cancel, Discard, InvalidState, Redrive, Seen, UnknownJob
from jobs.bulk import FIXED, STATES, Wanted, selector
from jobs.models import BulkOperation
from jobs.reconcile import is_outage
from jobs.script import Script
from jobs.states import State

logger = logging.getLogger(__name__)

#: How long an operation's turn lasts, seconds, and how many jobs are looked up at once.
SLICE_S = 2.0
PAGE = 200
#: A scheduler that dies holds an operation for so long, seconds. Each job renews it.
LEASE_S = 6.0
#: Finding the next jobs may take so long, and has a lease that outlives it. Seconds.
FIND_TIMEOUT_S = 15.0
FIND_LEASE_S = 20.0
#: How long the change of one job waits for a lock, and how often it is tried.
LOCK_TIMEOUT = "3s"
TRIES = 3
#: A process that stops in the middle of a job loses its transaction, and with it the operation.
IDLE_TIMEOUT = "10s"


class Lost(Exception):
    """The operation is no longer ours: it was stopped, or somebody else took it over."""


@dataclass(frozen=True, slots=True)
class Turn:
    """An operation that was taken, and the mark of whoever holds it."""

    operation: BulkOperation
    mark: UUID
    #: Its selection is a list of ids that was fixed when it was asked for.
    is_fixed: bool

    @property
    def wanted(self) -> Wanted:
        """Which jobs it is about."""
        operation = self.operation
        return Wanted(operation.selection, STATES[operation.verb], operation.created_at)


_TAKE = """
UPDATE jobs_bulkoperation SET state = 'running', started_at = coalesce(started_at, now()), worked_at = now(),
    taken_by = %(mark)s, taken_until = now() + make_interval(secs => %(lease)s)
WHERE id = (
    SELECT id FROM jobs_bulkoperation
    WHERE state IN ('pending', 'running') AND (taken_until IS NULL OR taken_until < now())
    ORDER BY worked_at NULLS FIRST, id LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
) RETURNING id, selection ? %(fixed)s
"""

# What is set here ends with the transaction, in which one job is changed.
_HOLD = """
SELECT refusals, set_config('lock_timeout', %(lock)s, true),
    set_config('idle_in_transaction_session_timeout', %(idle)s, true)
FROM jobs_bulkoperation WHERE id = %(id)s AND taken_by = %(mark)s AND state = 'running' FOR NO KEY UPDATE
"""

_NEXT_FIXED = """
SELECT each::uuid FROM jobs_bulkoperation, jsonb_array_elements_text(selection -> %(fixed)s) AS each
WHERE id = %(id)s AND (%(below)s::uuid IS NULL OR each::uuid < %(below)s) ORDER BY 1 DESC LIMIT %(limit)s
"""


def take() -> Turn | None:
    """Take the operation whose last turn is longest ago; None if there is none that nobody works on."""
    mark = uuid4()
    with connection.cursor() as cursor:
        cursor.execute(_TAKE, {"mark": mark, "lease": FIND_LEASE_S, "fixed": FIXED})
        row = cursor.fetchone()
    if row is None:
        return None
    # A fixed selection may hold thousands of ids: they are read a page at a time.
    return Turn(BulkOperation.objects.defer("selection").get(pk=row[0]), mark, row[1])


@dataclass(slots=True)
class BulkWorker:
    """One process's worker on operations. Any number of them may run at once."""

    every_s: float = 1.0
    slice_s: float = SLICE_S
    page: int = PAGE
    clock: Callable[[], float] = time.monotonic

    def run(self, stop: threading.Event) -> None:
        """Work until told to stop."""
        while not stop.is_set():
            if not self.turn(stop):
                stop.wait(self.every_s)
        connection.close()

    def turn(self, stop: threading.Event | None = None) -> bool:
        """Give the next operation its turn. Returns False if there is none, or the database does not answer."""
        close_old_connections()
        try:
            turn = take()
            if turn is None:
                return False
            self._work(turn, stop or threading.Event())
        except Lost:
            return True
        except DatabaseError as error:
            connection.close()
            if is_outage(error):
                logger.warning("the database does not answer: %s", error, extra={"action": "database_outage"})
            else:
                logger.exception("the work on an operation failed", extra={"action": "bulk_failed"})
            return False
        except Exception:
            logger.exception("the work on an operation failed", extra={"action": "bulk_failed"})
            return False
        return True

    def _work(self, turn: Turn, stop: threading.Event) -> None:
        actor = _asker(turn.operation)
        if actor is None:
            _give_up(turn)
            return
        action = _action(turn.operation, actor)
        until = self.clock() + self.slice_s
        below = turn.operation.cursor
        while found := self._next(turn, below):
            for job_id in found:
                _change(turn, job_id, action)
                below = job_id
                if stop.is_set() or self.clock() >= until:
                    _write(turn, "taken_by = NULL, taken_until = NULL, worked_at = clock_timestamp()")
                    return
            _renew(turn)
        if found is not None:
            _end(turn, BulkOperation.State.FINISHED)

    def _next(self, turn: Turn, below: UUID | None) -> list[UUID] | None:
        """Return the next jobs, none at the end; None if they could not be found: then the operation has failed."""
        operation = turn.operation
        try:
            with at_most(FIND_TIMEOUT_S):
                if turn.is_fixed:
                    return _fixed(operation.pk, below, self.page)
                return selector(operation.selector).ids(turn.wanted, below, self.page)
        except Exception as error:
            if is_outage(error):
                raise
            logger.exception("could not find the jobs of operation %s", operation.pk, extra={"action": "bulk_failed"})
            words = (
                "Finding the next tasks took too long. Ask again with a narrower filter."
                if took_too_long(error)
                else f"The tasks could not be found ({type(error).__name__}). The log of the scheduler says more."
            )
            _end(turn, BulkOperation.State.FAILED, words)
            return None


def _fixed(operation_id: UUID, below: UUID | None, limit: int) -> list[UUID]:
    with connection.cursor() as cursor:
        cursor.execute(_NEXT_FIXED, {"fixed": FIXED, "id": operation_id, "below": below, "limit": limit})
        return [row[0] for row in cursor.fetchall()]


def _asker(operation: BulkOperation) -> Actor | None:
    """Return who asked, as they were then; None if they may not do this any more."""
    # Asked anew each turn: what a person may do is kept with the object.
    user = get_user_model().objects.filter(pk=operation.asked_by_id or 0).first()
    if user is None or not roles.is_operator(user):
        return None
    return Actor(user, operation.address, operation.request_id, known_as=operation.asked_by_name)


def _action(operation: BulkOperation, actor: Actor) -> Cancel | Redrive | Discard:
    seen = Seen(at=operation.created_at)
    if operation.verb == BulkOperation.Verb.REDRIVE:
        return Redrive(actor, from_=operation.options["from"], seen=seen)
    if operation.verb == BulkOperation.Verb.DISCARD:
        return Discard(actor, note=operation.options["note"], seen=seen)
    return Cancel(actor, seen=seen)


def _change(turn: Turn, job_id: UUID, action: Cancel | Redrive | Discard) -> None:
    """Change one job and count it.

    Raises:
        Lost: the operation is not ours any more; nothing was changed.
    """
    for _ in range(TRIES):
        try:
            _count(turn, job_id, lambda: _refusal(job_id, action))
        except OperationalError as error:
            if is_outage(error):
                raise
            logger.info("job %s is locked: %s", job_id, error, extra={"action": "bulk_row_locked"})
        else:
            return
    _count(turn, job_id, lambda: "busy with another change for too long")


def _count(turn: Turn, job_id: UUID, do: Callable[[], str]) -> None:
    """Do it and count it, in one transaction. First of all locks is the operation's."""
    with transaction.atomic():
        rows = script.run(
            _ask(_HOLD, {"lock": LOCK_TIMEOUT, "idle": IDLE_TIMEOUT, "id": turn.operation.pk, "mark": turn.mark})
        )
        if not rows:
            raise Lost
        reason = do()
        sets: dict[str, Any] = {"changed = changed + %s": 1}
        if reason:
            counted = bulk_refusals.add(rows[0]["refusals"], reason)
            sets = {"refused = refused + %s": 1, "refusals = %s": Jsonb(counted)}
        sets |= {"cursor = %s": job_id, "taken_until = clock_timestamp() + make_interval(secs => %s)": LEASE_S}
        _write(turn, ", ".join(sets), list(sets.values()))


def _refusal(job_id: UUID, action: Cancel | Redrive | Discard) -> str:
    """Do it to one job. Returns why it was refused, nothing if it was done."""
    try:
        with transaction.atomic():
            if isinstance(action, Cancel) and (asked := bulk_refusals.asked_to_stop(job_id)):
                return asked
            action.run(job_id)
    except UnknownJob:
        return "no longer there"
    except InvalidState as error:
        return bulk_refusals.refused(error)
    except (OperationalError, InterfaceError):
        raise
    except Exception as error:
        logger.exception("job %s could not be changed", job_id, extra={"action": "bulk_row_failed"})
        return f"hit by an error ({type(error).__name__}): the log of the scheduler says more"
    return ""


def _ask(sql: str, params: Any) -> Script[list[dict[str, Any]]]:
    return (yield sql, params)


def _write(turn: Turn, sets: str, values: list[Any] | None = None) -> None:
    """Write to the operation while it is ours.

    Raises:
        Lost: it is not.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE jobs_bulkoperation SET {sets} WHERE id = %s AND taken_by = %s AND state = 'running'",
            [*(values or []), turn.operation.pk, turn.mark],
        )
        if not cursor.rowcount:
            raise Lost


def _renew(turn: Turn) -> None:
    """Hold it for as long as it may take to find the next jobs."""
    _write(turn, "taken_until = clock_timestamp() + make_interval(secs => %s)", [FIND_LEASE_S])


def _end(turn: Turn, state: BulkOperation.State, problem: str = "") -> None:
    _write(
        turn,
        "state = %s, problem = %s, finished_at = clock_timestamp(), taken_by = NULL, taken_until = NULL",
        [state.value, problem],
    )


def _give_up(turn: Turn) -> None:
    """Stop what nobody answers for any more."""
    operation = turn.operation
    words = f"It was stopped because {operation.asked_by_name} is no longer an operator."
    with transaction.atomic():
        _end(turn, BulkOperation.State.STOPPED, words)
        trail.record(
            SYSTEM,
            "bulk.stop",
            "operation",
            operation.pk,
            note=words,
            before={"state": State.RUNNING, "changed": operation.changed, "refused": operation.refused},
            after={"state": BulkOperation.State.STOPPED},
        )
