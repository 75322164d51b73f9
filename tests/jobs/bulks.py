"""Operations for tests: jobs to be changed in bulk, whoever asks, and how an operation is worked on to its end."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from accounts import roles
from audit.trail import Actor
from jobs import bulk
from jobs.bulk import Selector, Wanted
from jobs.bulk_worker import BulkWorker
from jobs.ids import uuid7
from jobs.models import BulkOperation, Job
from tests.jobs.drive import ask
from tests.support.people import person


def _ids(wanted: Wanted, below: UUID | None, limit: int) -> list[UUID]:
    jobs = Job.objects.filter(state__in=wanted.states, created_at__lte=wanted.as_of).order_by("-id")
    if "ids" in wanted.selection:
        jobs = jobs.filter(id__in=wanted.selection["ids"])
    if below is not None:
        jobs = jobs.filter(id__lt=below)
    return list(jobs.values_list("id", flat=True)[:limit])


bulk.register_selector(Selector("test.all", _ids))


def operator(name: str = "alice") -> Actor:
    """An operator at their desk."""
    return Actor(person(name, roles.OPERATOR), address="192.0.2.1", request_id=f"req-{name}")


def dead_letters(count: int, *, handler: str = "test.noop", state: str = "dead") -> None:
    """Write dead letters that failed a minute ago, or jobs that are queued, with one statement."""
    ended = "now() - interval '1 minute'" if state == "dead" else "NULL"
    ask(
        "INSERT INTO jobs_job (id, handler, payload, state, lane, home_lane, priority, fair_tag, hold_keys, blocked_on,"
        " attempt, max_attempts, crashes, generation, fence, created_at, finished_at)"
        " SELECT gen_random_uuid(), %s, '{}', %s, 'queue', 'queue', 1, n, '{}', '{}', 3, 3, 0, 1, 0,"
        f" now() - interval '1 hour', {ended} FROM generate_series(1, %s) n",
        [handler, state, count],
    )


def started(
    verb: str = "redrive", *, by: str = "alice", selection: dict[str, Any] | None = None, **options: str
) -> BulkOperation:
    """Ask for an operation on all jobs there are."""
    return bulk.start(
        operator(by),
        uuid7(),
        verb,
        selected_by="test.all",
        selection={} if selection is None else selection,
        words="all of them",
        options=options,
    )


def work(worker: BulkWorker | None = None) -> None:
    """Give turns until there is nothing to do."""
    worker = worker or BulkWorker()
    while worker.turn():
        pass


def now(operation: BulkOperation) -> BulkOperation:
    """Return the operation as it is now."""
    return BulkOperation.objects.get(pk=operation.pk)


def counts(operation: BulkOperation) -> tuple[str, int, int, dict[str, int]]:
    """Return what an operation has come to: its state, changed, refused and why."""
    row = now(operation)
    return row.state, row.changed, row.refused, row.refusals


def let_the_lease_end(operation: BulkOperation) -> None:
    """Let so much time pass that whoever held the operation does so no more."""
    ask("UPDATE jobs_bulkoperation SET taken_until = now() - interval '1 second' WHERE id = %s", [operation.pk])
