"""Whatever callers, workers, people, crashes and time do to jobs, in turn or at once, the model's rules hold."""

from __future__ import annotations

import copy
import itertools
import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast
from unittest import mock
from uuid import UUID

import pytest
from django.db import connection
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from audit.trail import SYSTEM
from jobs import handlers, lease, script
from jobs.actions import Redrive
from jobs.claim import claim, finish
from jobs.handlers import (
    Claim,
    Failed,
    Outcome,
    Succeeded,
)
from jobs.holds import lift
from jobs.models import JobEvent
from jobs.reconcile import Reconciler
from jobs.retry import RetryPolicy
from jobs.script import Script
from jobs.states import TRANSITIONS, State
from jobs.waits import resolve
from tests.jobs import model
from tests.jobs.deeds import (
    CAN,
    HOLD_KEYS,
    OUTCOMES,
    PARTITIONS,
    PUT_OFF_S,
    UNIT_S,
    WAIT_KEYS,
    Deed,
    cancel_one,
    claim_one,
    discard_one,
    end_one,
    finish_one,
    hold_one,
    lift_one,
    record_step,
    redrive_one,
    resolve_one,
    submit_one,
)
from tests.jobs.drive import PROBLEM, TABLES, ask, at_once, pass_time, worker
from tests.jobs.model import HOME, SUSPECT, Mismatch, Model

T = TypeVar("T")

#: What is done, and how often: mostly work.
DEEDS = (
    ["submit"] * 4
    + ["claim"] * 4
    + ["finish"] * 6
    + ["step", "cancel", "cancel", "redrive", "redrive", "discard", "resolve", "resolve", "hold", "lift", "end"]
)
TURNS = [
    *["work"] * 12,
    *["race for a job"] * 3,
    *["race for a partition"] * 4,
    *["at once"] * 6,
    *DEEDS,
    *["let time pass"] * 4,
    *["reconcile"] * 6,
    "reconcile at once",
    "start a worker",
]


class Jobs(RuleBasedStateMachine):
    """One turn after another, in which something is done, and sometimes several things at once.

    There is one rule only: of several, Hypothesis would leave out some in each example, and most of what can be done
    would find nothing to do it to.
    """

    def __init__(self) -> None:
        super().__init__()
        with connection.cursor() as cursor:
            cursor.execute(f"TRUNCATE {', '.join(TABLES)} CASCADE")
        self.model = Model()
        self.claims: list[Claim] = []
        self.turns = 0
        self.chance = random.Random(0)
        self.start_worker((CAN,), (HOME, SUSPECT))
        for _ in range(4):
            self.do("submit")

    @rule(name=st.sampled_from(TURNS), number=st.integers(0, 1000))
    def turn(self, name: str, number: int) -> None:
        """Do something; the number decides to what."""
        self.turns += 1
        self.chance = random.Random(number * 1000 + self.turns)
        match name:
            case "work":
                self.work()
            case "at once":
                self.do_at_once()
            case "race for a job":
                self.race_for_one_job()
            case "race for a partition":
                self.race_for_a_partition()
            case "let time pass":
                self.let_time_pass()
            case "reconcile":
                Reconciler().tick()
                self.model.reconcile()
            case "reconcile at once":
                self.reconcile_at_once()
            case "start a worker":
                lanes = self.chance.choice(((HOME,), (SUSPECT,), (HOME, SUSPECT)))
                self.start_worker(self.chance.choice(((), (CAN,), (CAN,))), lanes)
            case _:
                self.do(name)

    # --- Choosing ---

    def pick(self, preferred: list[T], others: Iterable[T]) -> T | None:
        """Choose one, five times out of six of the preferred."""
        found = preferred if preferred and self.chance.random() < 5 / 6 else list(others)
        return self.chance.choice(found) if found else None

    def a_claim(self) -> Claim | None:
        good = [claimed for claimed in self.claims if self.model.owns(claimed.job_id, claimed.fence)]
        return self.pick(good, self.claims)

    def deed(self, chosen: str, *, alone: bool = True) -> Deed | None:
        """Return a deed of that name, to some of what there is; None if there is nothing to do it to."""
        chance = self.chance
        match chosen:
            case "submit":
                hold, requires = chance.choice((None, None, None, *HOLD_KEYS)), chance.choice((None, None, None, CAN))
                return submit_one(chance.choice(PARTITIONS), hold, requires, later=chance.random() < 0.15)
            case "hold":
                return hold_one(chance.choice(HOLD_KEYS))
            case "lift":
                return lift_one(chance.choice(HOLD_KEYS))
            case "claim" | "end":
                return self.deed_of_a_worker(chosen, alone)
            case "finish" | "step":
                claimed = self.a_claim()
                if claimed is None:
                    return None
                return record_step(claimed) if chosen == "step" else finish_one(claimed, *self.an_outcome())
            case _:
                return self.deed_of_a_person(chosen)

    def an_outcome(self) -> tuple[str, list[str]]:
        return self.chance.choice([*OUTCOMES, "failed", "parked"]), self.chance.sample(
            WAIT_KEYS, self.chance.randint(0, 2)
        )

    def deed_of_a_worker(self, chosen: str, alone: bool) -> Deed | None:
        alive = [worker_id for worker_id, worker in self.model.workers.items() if worker.alive]
        worker_id = self.pick(alive, self.model.workers)
        if worker_id is None:
            return None
        if chosen == "end":
            owners = [job.worker for job in self.model.jobs.values() if job.worker is not None]
            return end_one(
                self.pick(owners, (worker_id,)) or worker_id, self.chance.choice(("died", "lost", "stopped"))
            )
        lanes = [job.lane for job in self.model.jobs.values() if job.state is State.QUEUED]
        lane = self.pick(lanes, (HOME, SUSPECT))
        assert lane is not None
        return claim_one(worker_id, lane, self.claims, alone=alone)

    def deed_of_a_person(self, chosen: str) -> Deed | None:
        wanted = {
            "cancel": {State.RUNNING, State.WAITING, State.SCHEDULED},
            "redrive": {State.DEAD, State.CANCELLED},
            "discard": {State.DEAD},
            "resolve": {State.WAITING},
        }[chosen]
        jobs = self.model.jobs.values()
        job = self.pick([job for job in jobs if job.state in wanted or "version" in job.blocked_on], jobs)
        if job is None:
            return None
        match chosen:
            case "cancel":
                return cancel_one(job.id)
            case "redrive":
                return redrive_one(job.id, self.chance.choice(("checkpoint", "start")))
            case "discard":
                return discard_one(job.id)
        key = self.pick([key for key, wait in job.waits.items() if not wait.resolved], WAIT_KEYS)
        assert key is not None
        return resolve_one(job.id, key, early=self.chance.random() < 0.3)

    def do(self, name: str) -> None:
        deed = self.deed(name)
        if deed is not None:
            self.one(deed)

    def one(self, deed: Deed) -> None:
        deed.follow(self.model, deed.do())

    def work(self) -> None:
        """Claim a job, and most times finish it or another; see to it that there are jobs and workers."""
        workers, jobs = self.model.workers, list(self.model.jobs.values())
        can = [
            (worker_id, job.lane)
            for worker_id, worker in workers.items()
            for job in jobs
            if self.model.eligible(job, worker, job.lane)
        ]
        if can:
            self.one(claim_one(*self.chance.choice(can), self.claims, alone=True))
        elif not any(worker.alive for worker in workers.values()):
            self.start_worker((CAN,), (HOME, SUSPECT))
        else:
            self.do("submit")
        if self.chance.random() < 0.7:
            self.do("finish")

    def start_worker(self, can: tuple[str, ...], lanes: tuple[str, ...]) -> None:
        self.model.workers[worker(*lanes, can=can)] = model.Worker(frozenset(lanes), frozenset(can))

    def let_time_pass(self) -> None:
        """Let a unit pass; most workers renew their leases."""
        pass_time(UNIT_S)
        self.model.pass_time()
        for worker_id, known in self.model.workers.items():
            if self.chance.random() < 0.2:
                continue
            stops = script.run(lease.renew(worker_id))
            assert (stops is None) == known.ended
            if stops is not None:
                known.lease = model.LEASE
                asked = {job.id for job in self.model.jobs.values() if job.worker == worker_id and job.cancel_requested}
                assert set(stops) == asked

    # --- At once ---

    def do_at_once(self) -> None:
        """Do things at once: what comes of them is what would have come of them in some order."""
        chosen = self.chance.choices(DEEDS, k=self.chance.randint(2, 3))
        deeds = [deed for name in chosen if (deed := self.deed(name, alone=False)) is not None]
        if deeds:
            self._follow_in_some_order(deeds)

    def race_for_one_job(self) -> None:
        """The same, all of them for one job."""
        claimed = self.a_claim()
        if claimed is None:
            return
        others = [
            cancel_one(claimed.job_id),
            end_one(claimed.worker_id, "lost"),
            resolve_one(claimed.job_id, "approve", early=True),
            finish_one(claimed, *self.an_outcome()),
        ]
        self._follow_in_some_order([finish_one(claimed, *self.an_outcome()), *self.chance.sample(others, 2)])

    def race_for_a_partition(self) -> None:
        """The same, all of them for one partition: its jobs come, end, are cancelled and come back."""
        partition = self.chance.choice(PARTITIONS[1:])
        jobs = [job for job in self.model.jobs.values() if job.partition == partition]
        deeds = [submit_one(partition, None, None, later=False) for _ in range(2)]
        deeds += [cancel_one(job.id) if job.live else redrive_one(job.id, "checkpoint") for job in jobs]
        for claimed in self.claims:
            if claimed.partition_key == partition and self.model.owns(claimed.job_id, claimed.fence):
                deeds += [finish_one(claimed, *self.an_outcome())] * 3
        self._follow_in_some_order(self.chance.sample(deeds, min(3, len(deeds))))

    def _follow_in_some_order(self, deeds: list[Deed]) -> None:
        with _haltingly():
            results = at_once(*(deed.do for deed in deeds))
        for result in results:
            if isinstance(result, Exception):
                raise result
        seen, told, before, claims = _rows(), [], self.model, list(self.claims)
        for order in itertools.permutations(range(len(deeds))):
            self.model = copy.deepcopy(before)
            self.claims[:] = claims
            try:
                for nth in order:
                    deeds[nth].follow(self.model, results[nth])
                expected = {job.id: job.seen() for job in self.model.jobs.values()}
                if expected == seen:
                    return
                told.append(f"{order}: {_difference(expected, seen)}")
            except Mismatch as mismatch:
                told.append(f"{order}: {mismatch}")
        names = [f"{deed.name} → {result}" for deed, result in zip(deeds, results, strict=True)]
        raise Mismatch("\n".join(["done at once:", *names, "but in no order:", *told]))

    def reconcile_at_once(self) -> None:
        """Any number of reconcilers do what one would do."""
        with _haltingly():
            at_once(*[lambda: Reconciler().tick()] * 3)
        Reconciler().tick()
        for _ in range(4):
            self.model.reconcile()

    # --- What always holds ---

    @invariant()
    def the_rows_are_what_the_model_says(self) -> None:
        expected, seen = {job.id: job.seen() for job in self.model.jobs.values()}, _rows()
        assert seen == expected, _difference(expected, seen)

    @invariant()
    def of_a_partition_one_is_active(self) -> None:
        active = Counter(
            job.partition for job in self.model.jobs.values() if job.partition and job.state in model.ACTIVE
        )
        assert all(count == 1 for count in active.values())

    @invariant()
    def attempts_and_crashes_are_bounded(self) -> None:
        for job in self.model.jobs.values():
            assert max(job.attempt, job.crashes) <= job.max_attempts
            assert job.state is State.DEAD or max(job.attempt, job.crashes) < job.max_attempts or not job.live

    def teardown(self) -> None:
        self._drain()
        self._check_events()
        before = _rows()
        for claimed in self.claims:
            assert not script.run(finish(claimed, Failed(PROBLEM))), "an old claim has no power"
        assert _rows() == before

    def _drain(self) -> None:
        """Lift, resolve and run everything: nothing is lost, all of it ends."""
        for key in HOLD_KEYS:
            script.run(lift(key, "paused"))
        for _ in range(40):
            if not ask("SELECT 1 FROM jobs_job WHERE finished_at IS NULL LIMIT 1"):
                return
            pass_time(2 * UNIT_S)
            mine = worker(HOME, SUSPECT, can=[CAN])
            Reconciler().tick()
            for row in ask("SELECT job_id, key FROM jobs_wait WHERE resolved_at IS NULL"):
                script.run(resolve(row["job_id"], row["key"], "yes"))
            for row in ask("SELECT id FROM jobs_job WHERE 'version' = ANY(blocked_on)"):
                Redrive(SYSTEM).run(row["id"])
            for lane in (HOME, SUSPECT):
                while (claimed := script.run(claim(mine, lane))) is not None:
                    assert script.run(finish(claimed, Succeeded()))
        raise AssertionError(f"these never end: {ask('SELECT * FROM jobs_job WHERE finished_at IS NULL')}")

    def _check_events(self) -> None:
        """The events tell the whole story: each change is one the table has, and none is missing."""
        claimed: set[tuple[UUID, int]] = set()
        states: dict[UUID, str] = dict.fromkeys(self.model.jobs, "")
        fences: Counter[UUID] = Counter()
        for event in JobEvent.objects.filter(kind="state").order_by("id"):
            assert event.old == states[event.job_id]
            if event.old and not event.old == event.new == "running":
                assert event.new in TRANSITIONS[State(event.old)]
            states[event.job_id] = event.new
            if event.reason == "claimed":
                assert (event.job_id, event.fence) not in claimed, "run twice under one fence"
                assert event.fence == fences[event.job_id] + 1
                claimed.add((event.job_id, event.fence))
                fences[event.job_id] = event.fence
        assert states == {row["id"]: row["state"] for row in ask("SELECT id, state FROM jobs_job")}


@contextmanager
def _haltingly() -> Iterator[None]:
    """Let scripts halt for up to two milliseconds before each statement, so that those done at once do interleave."""
    run, chance = script.run, random.Random()

    def halting(what: Script[T]) -> Script[T]:
        rows: Any = None
        while True:
            try:
                asked = what.send(rows)
            except StopIteration as stop:
                return cast("T", stop.value)
            time.sleep(chance.uniform(0, 0.002))
            rows = yield asked

    with mock.patch.object(script, "run", lambda what: run(halting(what))):
        yield


def _rows() -> dict[UUID, tuple[Any, ...]]:
    """Return the jobs as `model.Job.seen` shows them."""
    rows = ask(
        "SELECT id, state, lane, attempt, crashes, generation, fence, worker_id, cancel_requested_at, blocked_on,"
        " (SELECT coalesce(array_agg(key || CASE WHEN resolved_at IS NULL THEN '-' ELSE '+' END), '{}')"
        "  FROM jobs_wait w WHERE w.job_id = j.id) AS waits FROM jobs_job j"
    )
    return {
        row["id"]: (
            row["state"],
            row["lane"],
            row["attempt"],
            row["crashes"],
            row["generation"],
            row["fence"],
            row["worker_id"],
            row["cancel_requested_at"] is not None,
            tuple(sorted(row["blocked_on"])),
            tuple(sorted((text[:-1], text[-1] == "+") for text in row["waits"])),
        )
        for row in rows
    }


def _difference(expected: dict[UUID, Any], seen: dict[UUID, Any]) -> str:
    ids = [job_id for job_id in {**expected, **seen} if expected.get(job_id) != seen.get(job_id)]
    return "; ".join(f"{job_id}: {expected.get(job_id)} expected, {seen.get(job_id)} seen" for job_id in ids)


def test_the_rules_hold_whatever_is_done_to_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(claim: Claim) -> Outcome:
        raise NotImplementedError

    policy = RetryPolicy(base_s=PUT_OFF_S, factor=1, max_s=PUT_OFF_S)
    handlers.register_function("test.machine", never, retry=policy)
    monkeypatch.setattr(lease, "LEASE_S", 1.5 * UNIT_S)
    run_state_machine_as_test(
        Jobs,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        ),
    )
