"""Tasks in any state, written straight to the tables, for tests of what is read and shown."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.contrib.auth.models import User
from django.utils import timezone

from agents.models import Endpoint, Run, Step
from jobs.ids import uuid7
from jobs.models import Job, JobEvent, Worker
from jobs.states import ENDED, State

PROBLEM = {
    "type": "/problems/model-unavailable",
    "title": "The model is not available now",
    "detail": "The provider answered 503 three times.",
    "retriable": True,
}


def fleet(slots: dict[str, int] | None = None, *, ended: str = "", **more: Any) -> Worker:
    """Write a worker that holds a lease, or one that ended so."""
    now = timezone.now()
    slots = {"queue": 4} if slots is None else slots
    values: dict[str, Any] = {
        "hostname": "host",
        "pid": 4121,
        "slots": slots,
        "lanes": list(slots),
        "version": "0.1.0",
        "started_at": now - timedelta(hours=1),
        "seen_at": now,
        "lease_until": now + timedelta(hours=1),
    }
    if ended:
        values |= {"ended_at": now, "end": ended}
    return Worker.objects.create(**(values | more))


def task(
    state: str = "queued",
    *,
    user: User | None = None,
    endpoint: str = "help.v1",
    input: Any = "Where does the river end?",
    output: Any = None,
    submitted: timedelta = timedelta(seconds=10),
    run: dict[str, Any] | None = None,
    **job: Any,
) -> Run:
    """Write a task with the events that such a task has. Keywords are columns of the job, ``run`` those of the run."""
    at = timezone.now() - submitted
    found = Endpoint.objects.get(name=endpoint)
    values: dict[str, Any] = {"lane": "queue", "home_lane": "queue", "created_at": at}
    if state == State.RUNNING:
        values |= {"worker": job.get("worker") or fleet(), "started_at": at, "claimed_at": at}
    if state == State.BLOCKED:
        values |= {"blocked_on": ["partition"]}
    if state == State.SCHEDULED:
        values |= {"run_at": timezone.now() + timedelta(minutes=5)}
    if state == State.QUEUED:
        values |= {"queued_at": at}
    if state in ENDED:
        values |= {"started_at": at, "finished_at": at + timedelta(seconds=4)}
    if state == State.DEAD:
        values |= {"error": PROBLEM, "attempt": 3}
    made = Job.objects.create(id=_id(at), handler="agent-run", state=state, user=user, **(values | job))
    events = [("", "queued", "submitted")]
    if state not in (State.QUEUED, State.BLOCKED, State.SCHEDULED):
        events.append(("queued", "running", "claimed"))
    if state in ENDED:
        events.append(("running", state, "finished" if state == State.SUCCEEDED else "failed"))
    for place, (old, new, reason) in enumerate(events):
        happened = at + timedelta(seconds=place)
        JobEvent.objects.create(job=made, kind="state", old=old, new=new, reason=reason, at=happened)
    return Run.objects.create(
        job=made,
        endpoint=found,
        agent=found.agent,
        user=user,
        input=input,
        output=output,
        seed=1,
        created_at=at,
        **{"mode": found.mode, **(run or {})},
    )


def step(run: Run, name: str = "plan", *, kind: str = "model", **more: Any) -> Step:
    """Write a finished step of a run."""
    now = timezone.now()
    values: dict[str, Any] = {
        "epoch": run.journal_epoch,
        "key": f"{name}#{run.steps.count()}",
        "name": name,
        "kind": kind,
        "input_hash": "0" * 64,
        "fence": 1,
        "started_at": now - timedelta(seconds=2),
        "finished_at": now,
    }
    if kind in ("model", "compose"):
        values |= {"model": "demo", "input_tokens": 120, "output_tokens": 30, "cost_usd": Decimal("0.0021")}
    return Step.objects.create(run=run, **(values | more))


def _id(at: datetime) -> UUID:
    """Return an id as one made at that time."""
    made = uuid7()
    return UUID(int=made.int & ((1 << 80) - 1) | int(at.timestamp() * 1000) << 80)
