"""What jobs are supposed to do, in plain Python: the rules without rows, locks or clocks.

Time goes in units: a lease holds for two of them, whatever was put off is due after one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from jobs.states import ENDED, TRANSITIONS, State

ACTIVE = frozenset({State.QUEUED, State.RUNNING, State.WAITING})
HOME, SUSPECT = "queue", "suspect"
LEASE = 2


class Mismatch(AssertionError):
    """The database did something that the model does not allow."""


@dataclass
class Wait:
    """A reason to be parked; ``has_deadline`` waits end by themselves once they are ``due``."""

    has_deadline: bool = False
    due: bool = False
    resolved: bool = False


@dataclass
class Job:
    """What is to be seen of a job from outside."""

    id: UUID
    state: State
    partition: str | None = None
    hold_keys: frozenset[str] = frozenset()
    requires: str | None = None
    max_attempts: int = 3
    lane: str = HOME
    attempt: int = 0
    crashes: int = 0
    generation: int = 1
    fence: int = 0
    worker: UUID | None = None
    cancel_requested: bool = False
    due: bool = False
    blocked_on: frozenset[str] = frozenset()
    waits: dict[str, Wait] = field(default_factory=dict)

    @property
    def live(self) -> bool:
        return self.state not in ENDED

    def seen(self) -> tuple[Any, ...]:
        """Return what can be compared with the row."""
        waits = tuple(sorted((key, wait.resolved) for key, wait in self.waits.items()))
        return (
            self.state.value,
            self.lane,
            self.attempt,
            self.crashes,
            self.generation,
            self.fence,
            self.worker,
            self.cancel_requested,
            tuple(sorted(self.blocked_on)),
            waits,
        )


@dataclass
class Worker:
    """A process and its lease."""

    lanes: frozenset[str]
    can: frozenset[str]
    lease: int = LEASE
    ended: bool = False

    @property
    def alive(self) -> bool:
        return not self.ended and self.lease > 0


@dataclass
class Model:
    """All jobs, workers and holds."""

    jobs: dict[UUID, Job] = field(default_factory=dict)
    workers: dict[UUID, Worker] = field(default_factory=dict)
    holds: set[str] = field(default_factory=set)

    # --- Rules that everything else uses ---

    def change(self, job: Job, new: State, blocked_on: Iterable[str] = ()) -> None:
        if new not in TRANSITIONS[job.state]:
            raise Mismatch(f"{job.state} → {new}")
        job.state, job.blocked_on = new, frozenset(blocked_on)
        job.worker, job.due = None, False
        if new in ENDED or new in (State.BLOCKED, State.SCHEDULED):
            self.promote(job.partition)

    def reasons(self, job: Job) -> set[str]:
        found = {f"hold:{key}" for key in job.hold_keys & self.holds}
        if job.partition is not None and any(
            other.state in ACTIVE or other.id < job.id
            for other in self.jobs.values()
            if other is not job and other.partition == job.partition and other.live
        ):
            found.add("partition")
        return found

    def make_ready(self, job: Job) -> None:
        found = self.reasons(job)
        self.change(job, State.BLOCKED if found else State.QUEUED, found)

    def promote(self, partition: str | None) -> None:
        of_it = [job for job in self.jobs.values() if job.partition == partition and job.live]
        if partition is None or not of_it:
            return
        head = min(of_it, key=lambda job: job.id)
        if head.state is State.BLOCKED:
            self.reconsider(head)

    def reconsider(self, job: Job, *, gone: str = "") -> None:
        kept = {r for r in job.blocked_on if r != "partition" and not r.startswith("hold:") and r != gone}
        found = kept | self.reasons(job)
        if found:
            job.blocked_on = frozenset(found)
        else:
            self.change(job, State.QUEUED)

    def served(self, job: Job) -> bool:
        return any(worker.alive and job.lane in worker.lanes for worker in self.workers.values())

    def servable(self, job: Job) -> bool:
        return job.requires is None or any(
            worker.alive and job.lane in worker.lanes and job.requires in worker.can for worker in self.workers.values()
        )

    # --- Workers ---

    def eligible(self, job: Job, worker: Worker, lane: str) -> bool:
        return (
            worker.alive
            and (job.state, job.lane) == (State.QUEUED, lane)
            and (job.requires is None or job.requires in worker.can)
            and not job.hold_keys & self.holds
        )

    def claim(self, worker_id: UUID, job_id: UUID, lane: str) -> None:
        job = self.jobs.get(job_id)
        if job is None:
            raise Mismatch(f"{job_id} was not there yet")
        if not self.eligible(job, self.workers[worker_id], lane):
            raise Mismatch(f"{job} may not be claimed by {self.workers[worker_id]}")
        job.state, job.worker, job.fence = State.RUNNING, worker_id, job.fence + 1

    def owns(self, job_id: UUID, fence: int) -> bool:
        job = self.jobs[job_id]
        return job.state is State.RUNNING and job.fence == fence

    def finish(self, job_id: UUID, fence: int, outcome: str, keys: Iterable[str] = ()) -> bool:
        if not self.owns(job_id, fence):
            return False
        job = self.jobs[job_id]
        if outcome == "succeeded":
            self.change(job, State.SUCCEEDED)
        elif job.cancel_requested or outcome == "cancelled":
            self.change(job, State.CANCELLED)
        elif outcome == "handed back":
            self.change(job, State.QUEUED)
        elif outcome in ("failed", "failed for good"):
            job.attempt += 1
            if outcome == "failed for good" or job.attempt >= job.max_attempts:
                self.change(job, State.DEAD)
            else:
                job.lane = HOME
                self.change(job, State.SCHEDULED)
        elif outcome == "version":
            job.lane = HOME
            self.change(job, State.BLOCKED, {"version"})
        else:
            self._park(job, set(keys))
        return True

    def _park(self, job: Job, keys: set[str]) -> None:
        job.waits = {key: wait for key, wait in job.waits.items() if wait.resolved or key in keys}
        for key in keys:
            job.waits.setdefault(key, Wait(has_deadline=key.startswith("until")))
        job.lane = HOME
        self.change(job, State.WAITING)
        self._go_on(job)

    def record_step(self, job_id: UUID, fence: int) -> bool:
        if not self.owns(job_id, fence):
            return False
        self.jobs[job_id].crashes = 0
        return True

    def end_worker(self, worker_id: UUID, how: str) -> None:
        worker = self.workers[worker_id]
        if worker.ended:
            return
        worker.ended = True
        for job in [job for job in self.jobs.values() if job.worker == worker_id]:
            self._release(job, crashed=how != "stopped")

    def _release(self, job: Job, *, crashed: bool) -> None:
        if job.cancel_requested:
            self.change(job, State.CANCELLED)
            return
        if crashed:
            job.crashes += job.lane == SUSPECT
            if job.crashes >= job.max_attempts:
                self.change(job, State.DEAD)
                return
            job.lane = SUSPECT
        self.change(job, State.QUEUED)

    # --- People and events ---

    def cancel(self, job_id: UUID) -> State | None:
        job = self.jobs[job_id]
        if not job.live:
            return None
        if job.state is State.RUNNING:
            job.cancel_requested = True
        else:
            self.change(job, State.CANCELLED)
        return job.state

    def redrive(self, job_id: UUID, from_: str) -> State | None:
        job = self.jobs[job_id]
        if job.state not in (State.DEAD, State.CANCELLED) and "version" not in job.blocked_on:
            return None
        job.generation, job.attempt, job.crashes, job.lane, job.cancel_requested = job.generation + 1, 0, 0, HOME, False
        if from_ == "start":
            job.waits = {}
        self.make_ready(job)
        return job.state

    def discard(self, job_id: UUID) -> State | None:
        job = self.jobs[job_id]
        if job.state is not State.DEAD:
            return None
        self.change(job, State.DISCARDED)
        return job.state

    def resolve(self, job_id: UUID, key: str, *, early: bool) -> bool:
        job = self.jobs[job_id]
        wait = job.waits.get(key)
        if wait is None and early:
            wait = job.waits[key] = Wait()
        if wait is None or wait.resolved:
            return False
        wait.resolved = True
        if job.state is State.WAITING:
            self._go_on(job)
        return True

    def _go_on(self, job: Job) -> None:
        if all(wait.resolved for wait in job.waits.values()):
            self.make_ready(job)

    # --- Time ---

    def pass_time(self) -> None:
        for worker in self.workers.values():
            worker.lease -= 1
        for job in self.jobs.values():
            job.due = job.state is State.SCHEDULED
            for wait in job.waits.values():
                wait.due = wait.has_deadline

    def reconcile(self) -> None:
        """Do what one look of a reconciler does, in its order."""
        for worker_id, worker in self.workers.items():
            if not worker.ended and not worker.alive:
                self.end_worker(worker_id, "lost")
        jobs = sorted(self.jobs.values(), key=lambda job: job.id)
        for job in jobs:
            if job.due:
                self.make_ready(job)
        for parked, key in [(job, key) for job in jobs for key, wait in job.waits.items() if wait.due]:
            self.resolve(parked.id, key, early=False)
        for job in [job for job in jobs if job.state is State.QUEUED and job.hold_keys & self.holds]:
            self._block(job)
        for job in [job for job in jobs if self._can_go_on(job)]:
            self._unblock(job)
        for job in [job for job in jobs if self._lacks_worker(job)]:
            self._block(job)

    def _block(self, job: Job) -> None:
        if job.state is not State.QUEUED:
            return
        found = {f"hold:{key}" for key in job.hold_keys & self.holds}
        if self._lacks_worker(job):
            found.add(f"no-worker:{job.requires}")
        if found:
            self.change(job, State.BLOCKED, found)

    def _unblock(self, job: Job) -> None:
        if job.state is State.BLOCKED:
            self.reconsider(job, gone=f"no-worker:{job.requires}" if self.servable(job) else "")

    def _lacks_worker(self, job: Job) -> bool:
        return job.state is State.QUEUED and self.served(job) and not self.servable(job)

    def _can_go_on(self, job: Job) -> bool:
        return (
            job.state is State.BLOCKED
            and "version" not in job.blocked_on
            and not self.reasons(job)
            and (f"no-worker:{job.requires}" not in job.blocked_on or self.servable(job))
        )
