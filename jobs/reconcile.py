"""Put right what a crash, an outage or a lost message left: once a second, in every scheduler process."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import UUID

import psycopg
from django.db import Error as DatabaseError
from django.db import InterfaceError, OperationalError, close_old_connections, connection

from jobs import holds, lane_samples, lanes, lease, script, waits, wakeups
from jobs.script import Script
from jobs.states import State
from jobs.sweeps import Sweep, registered
from jobs.transitions import change, lock, reasons

logger = logging.getLogger(__name__)

PAGE = 500
#: A reconciler that has not seen the database for longer cannot tell a dead worker from one that was away as well: a
#: lease that is renewed as it should be outlives a shorter gap. Seconds.
GAP_S = lease.LEASE_S - lease.RENEW_S
#: How long a statement waits for a lock: a process that was stopped while it held one must not stop us too.
LOCK_TIMEOUT = "3s"
#: How long it may take at all: the leases are looked after in this very thread.
STATEMENT_TIMEOUT = "10s"
#: Operational errors of PostgreSQL that are nobody's outage.
_NO_OUTAGE = (psycopg.errors.DeadlockDetected, psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled)


def is_outage(error: BaseException) -> bool:
    """Tell whether the error means that PostgreSQL is away, and not that a statement is wrong."""
    return isinstance(error, OperationalError | InterfaceError) and not isinstance(error.__cause__, _NO_OUTAGE)


def due_jobs() -> Script[list[UUID]]:
    """Return scheduled jobs whose time has come."""
    rows = yield (
        "SELECT id FROM jobs_job WHERE state = 'scheduled' AND run_at <= now() ORDER BY run_at LIMIT %s",
        [PAGE],
    )
    return [row["id"] for row in rows]


def make_due(job_id: UUID) -> Script[bool]:
    """Queue a scheduled job whose time has come, or block it for what stops it."""
    job = yield from lock(job_id)
    if job is None or job["state"] != State.SCHEDULED:
        return False
    still = yield "SELECT 1 FROM jobs_job WHERE id = %s AND run_at <= now()", [job_id]
    if not still:
        return False
    blocked_on = yield from reasons(job)
    yield from change(
        job, State.BLOCKED if blocked_on else State.QUEUED, reason="due", blocked_on=blocked_on, sets={"run_at": None}
    )
    return True


def expire_leases() -> int:
    """Declare overdue leases lost and take what they held. Returns how many workers were lost."""
    lost = 0
    for worker_id in script.run(lease.expired()):
        try:
            # Asked again under the row's lock: it may have renewed in between.
            lost += script.run(_expire(worker_id))
        except Exception as error:
            if is_outage(error):
                raise
            logger.exception(
                "could not take all jobs of worker %s at once", worker_id, extra={"action": "reconcile_failed"}
            )
            with _each_by_itself("worker", worker_id):
                lost += script.run(lease.close_expired(worker_id))
    return lost


@contextmanager
def _each_by_itself(what: str, which: UUID) -> Iterator[None]:
    """Go on with the next when one fails; an outage is everyone's."""
    try:
        yield
    except Exception as error:
        if is_outage(error):
            raise
        logger.exception("could not put right %s %s", what, which, extra={"action": "reconcile_failed"})


def _expire(worker_id: UUID) -> Script[bool]:
    rows = yield (
        "SELECT id FROM jobs_worker WHERE id = %s AND ended_at IS NULL AND lease_until < now() FOR UPDATE SKIP LOCKED",
        [worker_id],
    )
    if not rows:
        return False
    logger.warning(
        "the lease of worker %s is over", worker_id, extra={"action": "lease_lost", "worker": str(worker_id)}
    )
    yield from lease.end(worker_id, "lost")
    return True


def nudge_idle_lanes() -> None:
    """Push a wake-up for lanes that have queued jobs but no message: a flush took them, or a push failed.

    Only the forking worker of lane `suspect` needs it; the others' idle slots look for themselves.
    """

    def depth() -> Script[int]:
        rows = yield (
            "SELECT count(*) AS n FROM (SELECT 1 FROM jobs_job WHERE lane = %s AND state = 'queued' LIMIT 50) q",
            [lanes.SUSPECT],
        )
        return int(rows[0]["n"])

    queued = script.run(depth())
    if queued and wakeups.depth(lanes.SUSPECT) == 0:
        wakeups.push([lanes.SUSPECT] * queued)


def forget_expired_keys() -> None:
    """Delete idempotency keys that have outlived their job by a day."""
    with connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM jobs_idempotencykey WHERE id IN"
            " (SELECT id FROM jobs_idempotencykey WHERE expires_at <= now() LIMIT 1000)"
        )


def resolve_due_waits() -> None:
    """Resolve waits whose time, or deadline, has come."""
    for job_id, key in script.run(waits.due()):
        with _each_by_itself("job", job_id):
            script.run(waits.expire(job_id, key))


def _each(found: Iterable[UUID], what: Callable[[UUID], Script[object]]) -> None:
    for job_id in found:
        with _each_by_itself("job", job_id):
            script.run(what(job_id))


OWN_SWEEPS = (
    Sweep("abandoned jobs", lambda: _each(script.run(lease.abandoned()), lease.take_abandoned), 1.0),
    Sweep("due jobs", lambda: _each(script.run(due_jobs()), make_due), 1.0),
    Sweep("due waits", resolve_due_waits, 1.0),
    Sweep("held jobs", lambda: _each(script.run(holds.held()), holds.block), 1.0),
    Sweep("unblockable jobs", lambda: _each(script.run(holds.unblockable()), holds.unblock), 1.0),
    Sweep("unservable jobs", lambda: _each(script.run(holds.unservable()), holds.block), 2.0),
    Sweep("idle lanes", nudge_idle_lanes, 1.0),
    Sweep("idempotency keys", forget_expired_keys, 60.0),
    Sweep("lane samples", lane_samples.sweep, lane_samples.SWEEP_EVERY_S),
)


def _clock() -> float:
    """Return seconds that pass while the machine sleeps too, where the system has such a clock."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(slots=True)
class Reconciler:
    """One process's reconciler. Any number of them may run at once."""

    every_s: float = 1.0
    clock: Callable[[], float] = _clock
    #: No lease is expired before this. After an outage of PostgreSQL, and after any time in which nobody looked or
    #: nothing answered (a stalled disk, a laptop that slept), the workers get one lease to come back.
    patient_until: float = 0.0
    _looked_at: float | None = None
    _last: dict[str, float] = field(default_factory=dict)

    def run(self, stop: threading.Event) -> None:
        """Reconcile until told to stop."""
        self._be_patient()  # for nobody knows what was before
        while not stop.is_set():
            self.tick()
            stop.wait(self.every_s)

    def tick(self) -> None:
        """Do what is due. An outage of the database is logged and waited out; it is nobody's crash."""
        close_old_connections()
        try:
            with connection.cursor() as cursor:
                cursor.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}'; SET statement_timeout = '{STATEMENT_TIMEOUT}'")
            self._expire_leases()
            for sweep in (*OWN_SWEEPS, *registered()):
                now = self.clock()
                if now - self._last.get(sweep.name, float("-inf")) >= sweep.every_s:
                    self._last[sweep.name] = now
                    self._sweep(sweep)
            with connection.cursor() as cursor:
                cursor.execute("RESET lock_timeout; RESET statement_timeout")
        except DatabaseError as error:
            connection.close()
            if not is_outage(error):
                logger.exception("the reconciler failed", extra={"action": "reconcile_failed"})
                return
            self._be_patient()
            logger.warning("the database does not answer: %s", error, extra={"action": "database_outage"})
        finally:
            self._looked_at = self.clock()

    def _expire_leases(self) -> None:
        now = self.clock()
        if self._looked_at is not None and now - self._looked_at > GAP_S:
            self._be_patient()
            logger.warning(
                "nobody has looked for %.1f s: workers get one lease to show up",
                now - self._looked_at,
                extra={"action": "reconciler_was_away"},
            )
        if now >= self.patient_until:
            expire_leases()

    def _be_patient(self) -> None:
        self.patient_until = self.clock() + lease.LEASE_S + 1

    def _sweep(self, sweep: Sweep) -> None:
        try:
            sweep.run()
        except Exception as error:
            if is_outage(error):
                raise
            logger.exception("sweep %r failed", sweep.name, extra={"action": "sweep_failed"})
