from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest
from django.db import connection

from audit.trail import SYSTEM
from jobs import handlers, lease, reconcile, script, sweeps, wakeups
from jobs.actions import Cancel
from jobs.handlers import Failed, Outcome, Parked, Succeeded, Transition, WaitFor
from jobs.models import Job, Worker
from jobs.pool import conninfo
from jobs.reconcile import GAP_S, Reconciler, due_jobs, expire_leases, make_due, nudge_idle_lanes
from jobs.script import Script
from jobs.states import State
from jobs.sweeps import register_sweep
from tests.jobs.drive import (
    PROBLEM,
    ask,
    at_once,
    end,
    job,
    pass_time,
    running,
    session,
    snapshot,
    state,
    story,
    submitted,
    taken,
    until,
    worker,
)


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def own_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what the test registers is swept besides our own."""
    monkeypatch.setattr(sweeps, "_sweeps", {})


@pytest.fixture
def outage() -> Iterator[Callable[[], None]]:
    """A function that breaks every connection to the database, as a restart of PostgreSQL does.

    The pool is begun anew before and after, so that it holds one connection and no broken one.
    """

    def kill() -> None:
        with psycopg.connect(conninfo(), autocommit=True) as own:
            own.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

    def begin_anew() -> None:
        connection.close()
        connection.close_pool()  # type: ignore[attr-defined]

    begin_anew()
    yield kill
    begin_anew()


# --- Due jobs --------------------------------------------------------------------------------------------------------


def _scheduled(seconds: float = 60) -> UUID:
    return submitted(run_at=datetime.now(UTC) + timedelta(seconds=seconds))


def test_a_scheduled_job_is_queued_when_its_time_has_come_and_not_before() -> None:
    job_id = _scheduled()
    Reconciler().tick()
    assert state(job_id) is State.SCHEDULED
    pass_time(60)
    Reconciler().tick()
    row = job(job_id)
    assert (row.state, row.run_at) == ("queued", None)
    assert row.queued_at is not None
    assert story(job_id)[-1] == ("scheduled", "queued", "due")
    assert wakeups.depth("queue") == 1


def test_a_retry_is_queued_in_its_turn_and_claimed_with_a_new_fence() -> None:
    claimed = running()
    end(claimed, Failed(PROBLEM))
    pass_time(60)
    Reconciler().tick()
    assert taken(worker()).fence == 2


def test_due_jobs_are_found_oldest_time_first() -> None:
    late, early = _scheduled(-10), _scheduled(-20)
    assert script.run(due_jobs()) == [early, late]


def test_a_job_that_is_not_due_any_more_when_its_turn_comes_is_left_alone() -> None:
    job_id, gone = _scheduled(-1), _scheduled(-1)
    ask("UPDATE jobs_job SET run_at = now() + interval '1 hour' WHERE id = %s", [job_id])
    Cancel(SYSTEM).run(gone)
    before = snapshot()
    assert not script.run(make_due(job_id))
    assert not script.run(make_due(gone))
    assert snapshot() == before


# --- Leases ----------------------------------------------------------------------------------------------------------


def test_an_overdue_lease_is_lost_with_all_that_it_held() -> None:
    mine = worker()
    made = [submitted() for _ in range(3)]
    for _ in made:
        taken(mine)
    other = running()
    ask("UPDATE jobs_worker SET lease_until = now() - interval '1 ms' WHERE id = %s", [mine])
    Reconciler().tick()
    row = Worker.objects.get(pk=mine)
    assert row.end == "lost"
    assert row.ended_at is not None
    for job_id in made:
        assert (state(job_id), story(job_id)[-1]) == (State.QUEUED, ("running", "queued", "lease-lost"))
    assert state(other.job_id) is State.RUNNING


def test_a_lease_that_is_renewed_in_time_is_kept() -> None:
    claimed = running()
    for _ in range(3):
        pass_time(lease.LEASE_S - 0.5)
        assert script.run(lease.renew(claimed.worker_id)) == []
        Reconciler().tick()
    assert state(claimed.job_id) is State.RUNNING


def test_a_lease_renewed_between_the_look_and_the_deed_is_kept() -> None:
    claimed = running()
    pass_time(lease.LEASE_S + 1)
    assert script.run(lease.expired()) == [claimed.worker_id]
    with session() as reconciler:
        steps = reconciler.steps(reconcile._expire(claimed.worker_id))
        next(steps)  # about to look again, under the row's lock
        script.run(lease.renew(claimed.worker_id))
        for _ in steps:
            pass
        reconciler.connection.commit()
    assert state(claimed.job_id) is State.RUNNING
    assert Worker.objects.get(pk=claimed.worker_id).ended_at is None


def test_a_lease_that_is_just_being_renewed_is_left_for_the_next_time() -> None:
    claimed = running()
    pass_time(lease.LEASE_S + 1)
    with session() as heartbeat:
        heartbeat.do(lease.renew(claimed.worker_id))
        expire_leases()
        heartbeat.connection.commit()
    expire_leases()
    assert state(claimed.job_id) is State.RUNNING


def test_a_worker_that_was_declared_lost_cannot_renew() -> None:
    claimed = running()
    pass_time(lease.LEASE_S + 1)
    expire_leases()
    assert script.run(lease.renew(claimed.worker_id)) is None
    assert Worker.objects.get().end == "lost"


def test_reconcilers_at_once_expire_a_lease_once() -> None:
    mine = worker()
    made = [submitted() for _ in range(5)]
    for _ in made:
        taken(mine)
    pass_time(lease.LEASE_S + 1)
    at_once(*[lambda: Reconciler().tick()] * 5)
    for job_id in made:
        assert [reason for *_, reason in story(job_id)] == ["submitted", "claimed", "lease-lost"]


def test_a_job_that_cannot_be_taken_from_a_dead_worker_keeps_no_other(refusing: str) -> None:
    """A handler that refuses the change must not keep its neighbours in the same process, nor other workers'."""
    mine = worker()
    made = [submitted(refusing), submitted(refusing, payload={"refuse": True}), submitted()]
    for _ in made:
        taken(mine)
    other = running()
    pass_time(lease.LEASE_S + 1)
    Reconciler().tick()
    assert Worker.objects.get(pk=mine).end == "lost"
    assert [state(job_id) for job_id in made] == [State.QUEUED, State.RUNNING, State.QUEUED]
    assert story(made[0])[-1] == ("running", "queued", "lease-lost")
    assert state(other.job_id) is State.QUEUED
    ask("UPDATE jobs_job SET payload = '{}'")
    Reconciler().tick()
    assert state(made[1]) is State.QUEUED, "it is tried again and again"


@pytest.mark.parametrize(("how", "lane"), [("lost", "suspect"), ("died", "suspect"), ("stopped", "queue")])
def test_a_job_whose_worker_has_ended_is_found_however_it_came_to_be_left(how: str, lane: str) -> None:
    claimed = running()
    ask('UPDATE jobs_worker SET ended_at = now(), "end" = %s', [how])
    Reconciler().tick()
    assert (state(claimed.job_id), job(claimed.job_id).lane) == (State.QUEUED, lane)


def test_a_job_that_was_taken_meanwhile_is_not_taken_again() -> None:
    claimed, alive = running(), running()
    script.run(lease.end(claimed.worker_id, "died"))
    before = snapshot()
    assert not script.run(lease.take_abandoned(claimed.job_id))
    assert not script.run(lease.take_abandoned(alive.job_id))
    assert not script.run(lease.close_expired(alive.worker_id))
    assert snapshot() == before


def test_the_dead_of_one_machine_are_released_at_once_and_only_they() -> None:
    dead, neighbour = running(), running()
    ask("UPDATE jobs_worker SET pid = 4711 WHERE id = %s", [dead.worker_id])
    ask("UPDATE jobs_worker SET pid = 4711, hostname = 'elsewhere' WHERE id = %s", [neighbour.worker_id])
    assert lease.release_dead(pid=4711) == 1
    assert (state(dead.job_id), state(neighbour.job_id)) == (State.QUEUED, State.RUNNING)
    assert lease.release_dead(pid=4711) == 0
    assert lease.release_all() == 1
    assert state(neighbour.job_id) is State.QUEUED


def test_a_job_that_its_worker_lost_track_of_is_handed_back() -> None:
    claimed = running()
    assert script.run(lease.held(claimed.worker_id, older_than_s=10)) == []
    pass_time(11)
    assert script.run(lease.held(claimed.worker_id, older_than_s=10)) == [(claimed.job_id, 1)]
    assert script.run(lease.hand_back(claimed.job_id, 1))
    row = job(claimed.job_id)
    assert (row.state, row.lane, row.crashes) == ("queued", "queue", 0)
    assert story(claimed.job_id)[-1] == ("running", "queued", "orphaned")


def test_a_lost_job_that_was_asked_to_stop_is_cancelled() -> None:
    claimed = running()
    Cancel(SYSTEM).run(claimed.job_id)
    assert script.run(lease.hand_back(claimed.job_id, 1))
    assert state(claimed.job_id) is State.CANCELLED


# --- Outages ---------------------------------------------------------------------------------------------------------


def test_after_an_outage_workers_get_one_lease_to_come_back(clock: Clock, outage: Callable[[], None]) -> None:
    claimed = running()
    reconciler = Reconciler(clock=clock)
    reconciler.tick()
    outage()
    reconciler.tick()  # it finds the connection broken
    pass_time(lease.LEASE_S + 10)
    clock.now += 1
    reconciler.tick()
    assert state(claimed.job_id) is State.RUNNING, "an outage is nobody's crash"
    for _ in range(int(lease.LEASE_S)):
        clock.now += 1
        reconciler.tick()
    assert state(claimed.job_id) is State.QUEUED, "but who does not come back is dead"


def test_a_worker_that_comes_back_after_an_outage_keeps_its_jobs(clock: Clock, outage: Callable[[], None]) -> None:
    claimed = running()
    reconciler = Reconciler(clock=clock)
    reconciler.tick()
    outage()
    reconciler.tick()
    pass_time(lease.LEASE_S + 10)
    clock.now += 1
    reconciler.tick()
    script.run(lease.renew(claimed.worker_id))
    for _ in range(5):
        clock.now += lease.RENEW_S
        script.run(lease.renew(claimed.worker_id))
        reconciler.tick()
    assert state(claimed.job_id) is State.RUNNING


def test_a_tick_never_raises_whatever_breaks(clock: Clock, outage: Callable[[], None]) -> None:
    reconciler = Reconciler(clock=clock)
    for _ in range(3):
        reconciler.tick()
        outage()
        clock.now += 1
    reconciler.tick()
    assert reconciler.patient_until > clock.now


def test_who_has_not_looked_for_long_does_not_judge(clock: Clock) -> None:
    """A laptop slept, or PostgreSQL stood still for a while and nobody could renew: every lease looks overdue."""
    claimed = running()
    reconciler = Reconciler(clock=clock)
    reconciler.tick()
    clock.now += GAP_S + 1
    pass_time(lease.LEASE_S + 1)
    reconciler.tick()
    assert state(claimed.job_id) is State.RUNNING
    script.run(lease.renew(claimed.worker_id))
    for _ in range(10):
        clock.now += 1
        reconciler.tick()
    assert state(claimed.job_id) is State.RUNNING


def test_who_looks_every_second_judges_at_once(clock: Clock) -> None:
    claimed = running()
    reconciler = Reconciler(clock=clock)
    for _ in range(20):
        clock.now += 1
        reconciler.tick()
    pass_time(lease.LEASE_S + 0.1)
    clock.now += 1
    reconciler.tick()
    assert state(claimed.job_id) is State.QUEUED


def test_a_slow_sweep_is_no_outage(clock: Clock, own_sweeps: None) -> None:
    def slow() -> None:
        clock.now += 60

    register_sweep("slow", slow, every_s=1)
    claimed = running()
    reconciler = Reconciler(clock=clock)
    for _ in range(5):
        clock.now += 1
        reconciler.tick()
    pass_time(lease.LEASE_S + 0.1)
    clock.now += 1
    reconciler.tick()
    assert state(claimed.job_id) is State.QUEUED


def _has_reached(clock: Clock, time: float) -> bool:
    return clock.now >= time


def test_a_reconciler_that_begins_does_not_judge_before_it_has_watched_for_a_lease(clock: Clock) -> None:
    claimed = running()
    pass_time(lease.LEASE_S + 1)
    stop = threading.Event()
    reconciler = Reconciler(every_s=0.001, clock=clock)

    def run() -> None:
        try:
            reconciler.run(stop)
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        ticked = Clock()
        register_sweep("ticked", lambda: setattr(ticked, "now", ticked.now + 1), every_s=0)
        until(lambda: ticked.now >= 1003)
        assert state(claimed.job_id) is State.RUNNING
        for _ in range(10):
            seen = ticked.now
            clock.now += 1
            until(functools.partial(_has_reached, ticked, seen + 2))
        until(lambda: state(claimed.job_id) is State.QUEUED)
    finally:
        stop.set()
        thread.join(10)
        sweeps._sweeps.pop("ticked")


# --- Sweeps ----------------------------------------------------------------------------------------------------------


def test_each_sweep_runs_as_often_as_it_says(clock: Clock, own_sweeps: None) -> None:
    ran: list[str] = []
    register_sweep("often", lambda: ran.append("often"), every_s=1)
    register_sweep("seldom", lambda: ran.append("seldom"), every_s=10)
    reconciler = Reconciler(clock=clock)
    for _ in range(21):
        reconciler.tick()
        clock.now += 1
    assert (ran.count("often"), ran.count("seldom")) == (21, 3)


def _divide() -> None:
    raise ZeroDivisionError


def _refused() -> None:
    ask("SELECT no_such_column FROM jobs_job")


def _duplicate() -> None:
    ask("INSERT INTO jobs_hold (key, reason, note, placed_by) VALUES ('k', 'r', '', ''), ('k', 'r', '', '')")


def _cancelled_statement() -> None:
    ask("SET LOCAL statement_timeout = '1ms'")
    ask("SELECT set_config('statement_timeout', '1', false)")
    try:
        ask("SELECT pg_sleep(1)")
    finally:
        ask("RESET statement_timeout")


@pytest.mark.parametrize("broken", [_divide, _refused, _duplicate, _cancelled_statement])
def test_a_sweep_that_fails_stops_no_other_and_is_no_outage(
    clock: Clock, own_sweeps: None, broken: Callable[[], None]
) -> None:
    ran: list[str] = []
    register_sweep("broken", broken, every_s=0)
    register_sweep("sound", lambda: ran.append("sound"), every_s=0)
    claimed = running()
    reconciler = Reconciler(clock=clock)
    reconciler.tick()
    reconciler.tick()
    assert ran == ["sound"] * 2
    pass_time(lease.LEASE_S + 1)
    reconciler.tick()
    assert state(claimed.job_id) is State.QUEUED, "leases are still looked after"


@pytest.fixture
def refusing() -> str:
    """A handler that refuses every change of a job whose payload says so."""

    async def never(claim: handlers.Claim) -> Outcome:
        raise NotImplementedError

    def refuse(change: Transition) -> Script[None]:
        yield "SELECT 1", []
        if change.payload.get("refuse"):
            raise RuntimeError("refused")

    handlers.register_function("test.choosy", never, on_transition=refuse)
    return "test.choosy"


def test_a_job_that_a_sweep_fails_on_stops_no_other(refusing: str) -> None:
    at = datetime.now(UTC) - timedelta(seconds=60)
    bad = submitted(refusing, payload={"refuse": True}, run_at=at)
    good = submitted(refusing, run_at=at + timedelta(seconds=1))
    claimed = [running("test.choosy"), running("test.choosy")]
    ask("UPDATE jobs_job SET payload = '{\"refuse\": false}' WHERE id = %s", [claimed[0].job_id])
    for each in claimed:
        end(each, Parked([WaitFor("time", "nap", datetime.now(UTC))]))
    ask("UPDATE jobs_job SET payload = '{\"refuse\": true}' WHERE id = %s", [claimed[0].job_id])
    Reconciler().tick()
    assert (state(bad), state(good)) == (State.SCHEDULED, State.QUEUED)
    assert [state(each.job_id) for each in claimed] == [State.WAITING, State.QUEUED]


def test_reconcilers_at_once_do_each_thing_once() -> None:
    due = [_scheduled(-1) for _ in range(5)]
    parked = running()
    end(parked, Parked([WaitFor("time", "nap", datetime.now(UTC))]))
    at_once(*[lambda: Reconciler().tick()] * 4)
    for job_id in due:
        assert [reason for *_, reason in story(job_id)] == ["submitted", "due"]
    assert [reason for *_, reason in story(parked.job_id)] == ["submitted", "claimed", "parked", "resolved"]


def test_a_row_that_a_stopped_process_holds_stops_the_reconciler_only_for_a_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reconcile, "LOCK_TIMEOUT", "50ms")
    stuck, free = _scheduled(-2), _scheduled(-1)
    with session() as stopped:
        stopped.connection.execute("SELECT 1 FROM jobs_job WHERE id = %s FOR UPDATE", [stuck])
        Reconciler().tick()
        assert state(free) is State.QUEUED
    Reconciler().tick()
    assert state(stuck) is State.QUEUED


def test_the_time_out_for_locks_ends_with_the_tick() -> None:
    Reconciler().tick()
    assert ask("SHOW lock_timeout") == [{"lock_timeout": "0"}]


# --- Suspects without a message --------------------------------------------------------------------------------------


def test_suspects_whose_messages_were_lost_get_new_ones() -> None:
    for _ in range(3):
        claimed = running()
        script.run(lease.end(claimed.worker_id, "died"))
    wakeups.queue("suspect").empty()  # type: ignore[no-untyped-call]
    nudge_idle_lanes()
    assert wakeups.depth("suspect") == 3
    nudge_idle_lanes()
    assert wakeups.depth("suspect") == 3


def test_a_lane_without_suspects_gets_no_message() -> None:
    submitted()
    nudge_idle_lanes()
    assert wakeups.depth("suspect") == 0


def test_a_crash_and_a_success_leave_nothing_to_sweep() -> None:
    claimed = running()
    script.run(lease.end(claimed.worker_id, "died"))
    end(taken(worker("suspect"), "suspect"), Succeeded())
    before = snapshot()
    Reconciler().tick()
    assert snapshot() == before
    assert not Job.objects.live().exists()
