"""Drive jobs by their scripts: what callers, workers, people and the passing of time do to them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from uuid import UUID

import psycopg
from django.contrib.auth.models import User
from django.db import connection
from psycopg.rows import dict_row

from audit.trail import Actor
from jobs import lease, script
from jobs.claim import claim, finish
from jobs.handlers import Claim, Outcome
from jobs.models import Job, JobEvent
from jobs.pool import conninfo
from jobs.script import After, Params, Row, Script
from jobs.states import State
from jobs.submit import Submission, submit

T = TypeVar("T")

PROBLEM = {"type": "/problems/test", "title": "No", "detail": "as told"}

#: Every table that a job's life touches, and those of the runs that stand on jobs.
TABLES = (
    "jobs_job",
    "jobs_jobevent",
    "jobs_worker",
    "jobs_hold",
    "jobs_wait",
    "jobs_idempotencykey",
    "agents_run",
    "agents_step",
    "audit_auditentry",
)
#: Where times of the future stand: what passing time changes.
_TIMES = {
    "jobs_job": ("run_at", "created_at", "queued_at", "claimed_at", "started_at", "finished_at"),
    "jobs_worker": ("started_at", "seen_at", "lease_until", "ended_at"),
    "jobs_wait": ("until", "created_at", "resolved_at"),
    "jobs_idempotencykey": ("expires_at",),
}


# --- Callers and workers ---------------------------------------------------------------------------------------------


def submitted(handler: str = "test.noop", *, lane: str = "queue", **more: Any) -> UUID:
    """Submit a job and return its id."""
    return submit(Submission(handler, more.pop("payload", {}), lane, **more)).job_id


def queue_in_bulk(count: int, *, hold_keys: Sequence[str] = (), priority: int = 1, user_id: int | None = None) -> None:
    """Put many jobs into lane `queue` with one statement, without events or messages."""
    ask(
        "INSERT INTO jobs_job (id, handler, payload, user_id, state, lane, home_lane, priority, fair_tag, hold_keys,"
        " blocked_on, attempt, max_attempts, crashes, generation, fence)"
        " SELECT gen_random_uuid(), 'test.noop', '{}', %s, 'queued', 'queue', 'queue', %s, n, %s, '{}', 0, 3, 0, 1, 0"
        " FROM generate_series(1, %s) n",
        [user_id, priority, list(hold_keys), count],
    )


def worker(*lanes: str, can: Sequence[str] = (), slots: int = 4) -> UUID:
    """Register a worker of these lanes that has loaded what it ``can``; return its id."""
    return script.run(lease.register(dict.fromkeys(lanes or ("queue",), slots), can, "1.0"))


def take(worker_id: UUID, lane: str = "queue") -> Claim | None:
    """Claim the best job of the lane."""
    return script.run(claim(worker_id, lane))


def taken(worker_id: UUID, lane: str = "queue") -> Claim:
    """Claim a job that must be there."""
    claimed = take(worker_id, lane)
    assert claimed is not None, f"nothing to claim in lane {lane}"
    return claimed


def running(handler: str = "test.noop", *, lane: str = "queue", **more: Any) -> Claim:
    """Submit a job and claim it for a worker of its own."""
    job_id = submitted(handler, lane=lane, **more)
    claimed = taken(worker(lane, can=[more["requires"]] if more.get("requires") else ()), lane)
    assert claimed.job_id == job_id
    return claimed


def end(claimed: Claim, outcome: Outcome) -> bool:
    """Write an outcome."""
    return script.run(finish(claimed, outcome))


def crash(worker_id: UUID) -> None:
    """Take a dead worker's jobs from it."""
    script.run(lease.end(worker_id, "died"))


def ask(sql: str, params: Params = ()) -> list[Row]:
    """Run one statement."""

    def one() -> Script[list[Row]]:
        return (yield sql, params)

    return script.run(one())


# --- What became of it -----------------------------------------------------------------------------------------------


def job(job_id: UUID) -> Job:
    return Job.objects.get(pk=job_id)


def state(job_id: UUID) -> State:
    return State(job(job_id).state)


def story(job_id: UUID) -> list[tuple[str, str, str]]:
    """Return the job's changes of state as (old, new, reason), oldest first."""
    events = JobEvent.objects.filter(job_id=job_id, kind="state").order_by("id")
    return [(event.old, event.new, event.reason) for event in events]


def last_event(job_id: UUID) -> JobEvent:
    return JobEvent.objects.filter(job_id=job_id).order_by("-id")[0]


def snapshot() -> dict[str, list[Row]]:
    """Return every row of every table, to compare before and after."""
    with connection.cursor() as cursor:
        found = {}
        for table in TABLES:
            cursor.execute(f"SELECT to_jsonb(t)::text FROM {table} t ORDER BY 1")
            found[table] = cursor.fetchall()
        return found


# --- People and time -------------------------------------------------------------------------------------------------


def person(name: str = "ada") -> User:
    return User.objects.get_or_create(username=name)[0]


def actor(name: str = "ada") -> Actor:
    return Actor(user=person(name), address="192.0.2.1", request_id="req-1")


def pass_time(seconds: float) -> None:
    """Let time pass by moving everything that has a time into the past."""
    for table, columns in _TIMES.items():
        sets = ", ".join(f"{column} = {column} - make_interval(secs => %(s)s)" for column in columns)
        with connection.cursor() as cursor:
            cursor.execute(f"UPDATE {table} SET {sets}", {"s": seconds})


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# --- Many at once ----------------------------------------------------------------------------------------------------


def at_once(*calls: Callable[[], T]) -> list[T | Exception]:
    """Run the calls in threads that begin together, each with a connection of its own; return results or errors."""
    assert len(calls) <= 6, "Django's pool has eight connections"
    barrier = threading.Barrier(len(calls))
    results: list[Any] = [None] * len(calls)

    def run(place: int, call: Callable[[], T]) -> None:
        try:
            connection.ensure_connection()
            barrier.wait(timeout=10)
            results[place] = call()
        except Exception as error:
            results[place] = error
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(place, call)) for place, call in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive(), "a thread hangs"
    return results


class Session:
    """A connection of its own on which a script goes on statement by statement, so that a test can stop in between."""

    def __init__(self) -> None:
        self.connection = psycopg.connect(conninfo(), row_factory=dict_row)
        self.pid = self.connection.info.backend_pid

    def steps(self, what: Script[T]) -> Iterator[str]:
        """Run the script, stopping before each of its statements; the transaction stays open at the end."""
        rows: list[Row] | None = None
        while True:
            try:
                asked = what.send(rows)  # type: ignore[arg-type]
            except StopIteration:
                return
            if isinstance(asked, After):
                rows = []
                continue
            sql, params = asked
            yield sql
            cursor = self.connection.execute(sql, params)
            rows = cursor.fetchall() if cursor.description else []

    def do(self, what: Script[T]) -> None:
        """Run the whole script and leave its transaction open."""
        for _ in self.steps(what):
            pass

    def is_waiting(self) -> bool:
        """Tell whether the session waits for a lock."""
        found = ask("SELECT wait_event_type FROM pg_stat_activity WHERE pid = %s", [self.pid])
        return bool(found) and found[0]["wait_event_type"] == "Lock"


@contextmanager
def session() -> Iterator[Session]:
    """Open a session; whatever it has not committed is rolled back."""
    opened = Session()
    try:
        yield opened
    finally:
        opened.connection.close()


class Waiter:
    """A call in a thread of its own that is expected to wait for somebody's lock."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.result: Any = None
        self._call = call
        self._pid: int | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_backend_pid()")
                self._pid = cursor.fetchone()[0]
            self.result = self._call()
        except Exception as error:
            self.result = error
        finally:
            connection.close()

    def blocked(self) -> bool:
        """Wait until it waits for a lock or has ended; tell which."""
        until(lambda: not self._thread.is_alive() or (self._pid is not None and self._waits()))
        return self._thread.is_alive()

    def _waits(self) -> bool:
        found = ask("SELECT wait_event_type FROM pg_stat_activity WHERE pid = %s", [self._pid])
        return bool(found) and found[0]["wait_event_type"] == "Lock"

    def end(self) -> Any:
        """Wait for its result."""
        self._thread.join(timeout=10)
        assert not self._thread.is_alive(), "it still waits"
        return self.result


def until(condition: Callable[[], Any], deadline_s: float = 10) -> None:
    """Wait for a condition that another thread or process brings about."""
    give_up = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < give_up, "it never came to be"
        time.sleep(0.002)
