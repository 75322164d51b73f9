from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from audit.trail import SYSTEM
from jobs import lease, reconcile, script, wakeups
from jobs.actions import Cancel
from jobs.handlers import Failed, Parked, Succeeded, WaitFor
from jobs.models import Job
from jobs.reconcile import Reconciler, due_jobs, make_due, nudge_idle_lanes
from jobs.states import State
from jobs.sweeps import register_sweep
from tests.jobs.drive import (
    PROBLEM,
    Clock,
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
    worker,
)

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


def test_a_sweep_that_takes_too_long_is_given_up_and_the_others_go_on(
    clock: Clock, own_sweeps: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reconcile, "STATEMENT_TIMEOUT", "50ms")
    ran: list[str] = []
    register_sweep("endless", lambda: ask("SELECT pg_sleep(60)"), every_s=0)
    register_sweep("sound", lambda: ran.append("sound"), every_s=0)
    Reconciler(clock=clock).tick()
    assert ran == ["sound"]
    assert "sweep 'endless' failed" in caplog.text


def test_the_time_outs_end_with_the_tick() -> None:
    Reconciler().tick()
    assert ask("SHOW lock_timeout") == [{"lock_timeout": "0"}]
    assert ask("SHOW statement_timeout") == [{"statement_timeout": "0"}]


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
