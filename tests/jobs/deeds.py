"""What is done to jobs: each deed with what the model says of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from audit.trail import SYSTEM
from jobs import lease, script
from jobs.actions import Cancel, Discard, InvalidState, Redrive
from jobs.claim import StaleFence, claim, fenced, finish, forget_crashes
from jobs.handlers import (
    Blocked,
    Cancelled,
    Claim,
    Failed,
    HandedBack,
    Outcome,
    Parked,
    Succeeded,
    WaitFor,
)
from jobs.holds import lift, place
from jobs.script import Script
from jobs.states import State
from jobs.submit import Submission, submit
from jobs.transitions import VERSION
from jobs.waits import resolve
from tests.jobs import model
from tests.jobs.drive import PROBLEM
from tests.jobs.model import HOME, Mismatch, Model

#: One unit of the model's time, seconds: what is put off is put off for less, a lease holds for one and a half.
UNIT_S = 300
PUT_OFF_S = 150
PARTITIONS = (None, "p", "q")
HOLD_KEYS = ("all", "agent:a")
CAN = "agent:a@1"
WAIT_KEYS = ("approve", "until-noon", "paid")

OUTCOMES: dict[str, Callable[[list[str]], Outcome]] = {
    "succeeded": lambda keys: Succeeded(),
    "failed": lambda keys: Failed(PROBLEM),
    "failed for good": lambda keys: Failed(PROBLEM, retriable=False),
    "parked": lambda keys: Parked([WaitFor("person", key, _soon() if "until" in key else None) for key in keys]),
    "version": lambda keys: Blocked(VERSION),
    "handed back": lambda keys: HandedBack(),
    "cancelled": lambda keys: Cancelled(),
}


def _soon() -> datetime:
    return datetime.now(UTC) + timedelta(seconds=PUT_OFF_S)


@dataclass(frozen=True)
class Deed:
    """Something done to the database, and what the model says of it, given what came of it."""

    name: str
    do: Callable[[], Any]
    #: Raises `Mismatch` if the model does not allow what came of it.
    follow: Callable[[Model, Any], None]


def _expect(result: Any, expected: Any) -> None:
    if result != expected:
        raise Mismatch(f"{result!r} instead of {expected!r}")


def _or_refused(call: Callable[[], State]) -> State | None:
    try:
        return call()
    except InvalidState:
        return None


def submit_one(partition: str | None, hold: str | None, requires: str | None, later: bool) -> Deed:
    holds = (hold,) if hold else ()

    def do() -> UUID:
        at = _soon() if later else None
        asked = Submission(
            "test.machine", {}, HOME, partition_key=partition, hold_keys=holds, requires=requires, run_at=at
        )
        return submit(asked).job_id

    def follow(m: Model, job_id: UUID) -> None:
        job = model.Job(job_id, State.SCHEDULED, partition, frozenset(holds), requires)
        if any(
            other.id > job_id for other in m.jobs.values() if other.live and other.partition == partition is not None
        ):
            raise Mismatch("its id is older than that of a job that came before it")
        m.jobs[job_id] = job
        if not later:
            job.blocked_on = frozenset(m.reasons(job))
            job.state = State.BLOCKED if job.blocked_on else State.QUEUED

    return Deed(f"submit({partition}, {hold}, {requires}, {later=})", do, follow)


def claim_one(worker_id: UUID, lane: str, into: list[Claim], *, alone: bool) -> Deed:
    def do() -> Claim | None:
        return script.run(claim(worker_id, lane))

    def follow(m: Model, claimed: Claim | None) -> None:
        if claimed is None:
            if alone and any(m.eligible(job, m.workers[worker_id], lane) for job in m.jobs.values()):
                raise Mismatch("nothing claimed, and there was something")
            return
        m.claim(worker_id, claimed.job_id, lane)
        _expect(claimed.fence, m.jobs[claimed.job_id].fence)
        into.append(claimed)

    return Deed(f"claim({worker_id}, {lane})", do, follow)


def finish_one(claimed: Claim, outcome: str, keys: list[str]) -> Deed:
    return Deed(
        f"finish({claimed.job_id}, {claimed.fence}, {outcome}, {keys})",
        lambda: script.run(finish(claimed, OUTCOMES[outcome](keys))),
        lambda m, written: _expect(written, m.finish(claimed.job_id, claimed.fence, outcome, keys)),
    )


def record_step(claimed: Claim) -> Deed:
    def write() -> Script[None]:
        yield from fenced(claimed, exclusive=True)
        yield from forget_crashes(claimed)

    def do() -> bool:
        try:
            script.run(write())
        except StaleFence:
            return False
        return True

    return Deed(
        f"record_step({claimed.job_id}, {claimed.fence})",
        do,
        lambda m, written: _expect(written, m.record_step(claimed.job_id, claimed.fence)),
    )


def end_one(worker_id: UUID, how: str) -> Deed:
    return Deed(
        f"end({worker_id}, {how})",
        lambda: script.run(lease.end(worker_id, how)),
        lambda m, _: m.end_worker(worker_id, how),
    )


def cancel_one(job_id: UUID) -> Deed:
    return Deed(
        f"cancel({job_id})",
        lambda: _or_refused(lambda: Cancel(SYSTEM).run(job_id)),
        lambda m, state: _expect(state, m.cancel(job_id)),
    )


def redrive_one(job_id: UUID, from_: Any) -> Deed:
    return Deed(
        f"redrive({job_id}, {from_})",
        lambda: _or_refused(lambda: Redrive(SYSTEM, from_=from_).run(job_id)),
        lambda m, state: _expect(state, m.redrive(job_id, from_)),
    )


def discard_one(job_id: UUID) -> Deed:
    return Deed(
        f"discard({job_id})",
        lambda: _or_refused(lambda: Discard(SYSTEM, note="no").run(job_id)),
        lambda m, state: _expect(state, m.discard(job_id)),
    )


def resolve_one(job_id: UUID, key: str, *, early: bool) -> Deed:
    return Deed(
        f"resolve({job_id}, {key}, {early=})",
        lambda: script.run(resolve(job_id, key, "yes", kind="person" if early else None)),
        lambda m, done: _expect(done, m.resolve(job_id, key, early=early)),
    )


def hold_one(key: str) -> Deed:
    def follow(m: Model, placed: bool) -> None:
        _expect(placed, key not in m.holds)
        m.holds.add(key)

    return Deed(f"hold({key})", lambda: script.run(place(key, "paused", by="ada")), follow)


def lift_one(key: str) -> Deed:
    def follow(m: Model, lifted: bool) -> None:
        _expect(lifted, key in m.holds)
        m.holds.discard(key)

    return Deed(f"lift({key})", lambda: script.run(lift(key, "paused")), follow)
