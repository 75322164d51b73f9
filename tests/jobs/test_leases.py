from __future__ import annotations

import functools
import threading
from collections.abc import Callable

import pytest
from django.db import connection

from audit.trail import SYSTEM
from jobs import lease, reconcile, script, sweeps
from jobs.actions import Cancel
from jobs.models import Worker
from jobs.reconcile import GAP_S, Reconciler, expire_leases
from jobs.states import State
from jobs.sweeps import register_sweep
from tests.jobs.drive import (
    Clock,
    ask,
    at_once,
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
