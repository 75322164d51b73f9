from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from audit.trail import SYSTEM
from jobs import holds, lease, script
from jobs.actions import Cancel
from jobs.handlers import Blocked
from jobs.holds import lift, place
from jobs.models import Hold, Job
from jobs.reconcile import PAGE, Reconciler
from jobs.script import After
from jobs.states import State
from tests.jobs.drive import (
    PROBLEM,
    ask,
    at_once,
    crash,
    end,
    job,
    pass_time,
    queue_in_bulk,
    running,
    snapshot,
    state,
    story,
    submitted,
    take,
    taken,
    worker,
)

A1 = "agent:a@1"


def _sweep() -> None:
    Reconciler().tick()


# --- Holds -----------------------------------------------------------------------------------------------------------


def test_a_hold_is_placed_once_for_each_reason() -> None:
    assert script.run(place("agent:a", "budget", by="ada", note="too dear"))
    assert not script.run(place("agent:a", "budget", by="bob"))
    assert script.run(place("agent:a", "paused", by="bob"))
    assert sorted(Hold.objects.values_list("key", "reason", "placed_by", "note")) == [
        ("agent:a", "budget", "ada", "too dear"),
        ("agent:a", "paused", "bob", ""),
    ]


def test_of_many_who_place_the_same_hold_at_once_one_does() -> None:
    assert sorted(map(str, at_once(*[lambda: script.run(place("all", "paused", by="ada"))] * 5))) == ["False"] * 4 + [
        "True"
    ]


def test_a_hold_is_lifted_once() -> None:
    script.run(place("all", "paused", by="ada"))
    assert script.run(lift("all", "paused"))
    assert not script.run(lift("all", "paused"))


def test_queued_jobs_under_a_hold_are_marked_and_come_back() -> None:
    held, free = submitted(hold_keys=["agent:a", "all"]), submitted(hold_keys=["agent:b", "all"])
    script.run(place("agent:a", "paused", by="ada"))
    _sweep()
    assert (state(held), job(held).blocked_on, state(free)) == (State.BLOCKED, ["hold:agent:a"], State.QUEUED)
    script.run(lift("agent:a", "paused"))
    _sweep()
    assert [step[1:] for step in story(held)] == [("queued", "submitted"), ("blocked", "held"), ("queued", "unblocked")]


def test_a_job_stays_blocked_until_the_last_of_its_holds_is_lifted() -> None:
    script.run(place("all", "paused", by="ada"))
    job_id = submitted(hold_keys=["agent:a", "all"])
    script.run(place("agent:a", "breaker", by="astra"))
    script.run(place("agent:a", "budget", by="astra"))
    for key, reason in (("agent:a", "breaker"), ("all", "paused")):
        script.run(lift(key, reason))
        _sweep()
        assert state(job_id) is State.BLOCKED
    script.run(lift("agent:a", "budget"))
    _sweep()
    assert state(job_id) is State.QUEUED


def test_what_runs_under_a_new_hold_runs_on() -> None:
    claimed = running(hold_keys=["all"])
    script.run(place("all", "paused", by="ada"))
    _sweep()
    assert state(claimed.job_id) is State.RUNNING


def test_a_thousand_held_jobs_leave_the_head_of_their_lane_within_a_few_sweeps() -> None:
    queue_in_bulk(1000, hold_keys=["agent:a"])
    script.run(place("agent:a", "paused", by="ada"))
    free = submitted()
    sweeps = 0
    while Job.objects.filter(state="queued").count() > 1:
        _sweep()
        sweeps += 1
        assert sweeps <= 1000 / PAGE
    assert Job.objects.filter(state="blocked").count() == 1000
    assert taken(worker()).job_id == free


def test_thousands_of_held_jobs_are_passed_over_without_a_look_at_anything_else() -> None:
    queue_in_bulk(5000, hold_keys=["agent:a"])
    ask("UPDATE jobs_job SET state = 'blocked', blocked_on = '{hold:agent:a}'")
    ask("ANALYZE jobs_job")
    script.run(place("agent:a", "paused", by="ada"))
    asked = next(holds.unblockable())
    assert not isinstance(asked, After)
    sql, params = asked
    plan = ask(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", params)[0]["QUERY PLAN"][0]["Plan"]
    assert _most_loops(plan) < 10


def _most_loops(node: dict[str, Any]) -> int:
    return max([int(node["Actual Loops"]), *map(_most_loops, node.get("Plans", ()))])


def test_a_blocked_job_under_a_hold_is_not_touched_again_and_again() -> None:
    script.run(place("all", "paused", by="ada"))
    submitted(hold_keys=["all"])
    _sweep()
    before = snapshot()
    _sweep()
    assert snapshot() == before


def test_a_hold_that_is_lifted_before_the_sweep_came_by_changes_nothing() -> None:
    job_id = submitted(hold_keys=["all"])
    script.run(place("all", "paused", by="ada"))
    found = script.run(holds.held())
    assert found == [job_id]
    script.run(lift("all", "paused"))
    before = snapshot()
    assert not script.run(holds.block(job_id))
    assert snapshot() == before


def test_a_job_that_changed_since_it_was_found_is_left_alone() -> None:
    job_id = submitted(hold_keys=["all"])
    script.run(place("all", "paused", by="ada"))
    Cancel(SYSTEM).run(job_id)
    before = snapshot()
    assert not script.run(holds.block(job_id))
    assert not script.run(holds.unblock(job_id))
    assert snapshot() == before


def test_sweepers_at_once_mark_each_job_once() -> None:
    made = [submitted(hold_keys=["all"]) for _ in range(10)]
    script.run(place("all", "paused", by="ada"))
    at_once(*[_sweep] * 4)
    assert all(story(job_id)[-1] == ("queued", "blocked", "held") for job_id in made)
    script.run(lift("all", "paused"))
    at_once(*[_sweep] * 4)
    for job_id in made:
        assert [reason for *_, reason in story(job_id)] == ["submitted", "held", "unblocked"]


# --- What no worker can run ------------------------------------------------------------------------------------------


def test_a_job_whose_version_no_worker_of_its_lane_has_loaded_is_blocked() -> None:
    job_id, other = submitted(requires=A1), submitted()
    worker(can=["agent:a@2"])
    _sweep()
    assert (state(job_id), job(job_id).blocked_on) == (State.BLOCKED, [f"no-worker:{A1}"])
    assert state(other) is State.QUEUED


def test_it_goes_on_when_a_worker_that_has_it_appears() -> None:
    job_id = submitted(requires=A1)
    worker()
    _sweep()
    assert state(job_id) is State.BLOCKED
    mine = worker(can=[A1])
    _sweep()
    assert taken(mine).job_id == job_id


def test_it_goes_on_when_a_worker_loads_it() -> None:
    job_id = submitted(requires=A1)
    mine = worker()
    _sweep()
    script.run(lease.update_capabilities(mine, [A1]))
    _sweep()
    assert state(job_id) is State.QUEUED


@pytest.mark.parametrize("gone", ["died", "lease over"])
def test_a_worker_that_is_gone_can_run_nothing(gone: str) -> None:
    job_id = submitted(requires=A1)
    mine = worker(can=[A1])
    if gone == "died":
        crash(mine)
    else:
        pass_time(lease.LEASE_S + 0.1)
    worker()
    Reconciler(patient_until=float("inf")).tick()
    assert state(job_id) is State.BLOCKED


def test_a_worker_of_another_lane_can_run_nothing_of_this_one() -> None:
    job_id = submitted(requires=A1)
    worker("batch", can=[A1])
    worker("queue")
    _sweep()
    assert job(job_id).blocked_on == [f"no-worker:{A1}"]
    _sweep()
    assert state(job_id) is State.BLOCKED
    worker("queue", "batch", can=[A1])
    _sweep()
    assert state(job_id) is State.QUEUED


def test_jobs_of_a_lane_without_workers_simply_wait() -> None:
    job_id = submitted(requires=A1)
    worker("batch")
    _sweep()
    assert state(job_id) is State.QUEUED
    script.run(place("all", "paused", by="ada"))
    held = submitted(requires=A1, hold_keys=["all"])
    Job.objects.filter(pk=held).update(state="queued", blocked_on=[])
    _sweep()
    assert job(held).blocked_on == ["hold:all"]


def test_a_job_blocked_for_two_reasons_goes_on_when_both_are_gone() -> None:
    job_id = submitted(requires=A1, hold_keys=["all"])
    mine = worker()
    script.run(place("all", "paused", by="ada"))
    _sweep()
    assert job(job_id).blocked_on == ["hold:all", f"no-worker:{A1}"]
    script.run(lease.update_capabilities(mine, [A1]))
    _sweep()
    assert state(job_id) is State.BLOCKED
    script.run(lift("all", "paused"))
    _sweep()
    assert state(job_id) is State.QUEUED


def test_a_job_that_lost_its_worker_to_a_lane_nobody_serves_waits_there() -> None:
    claimed = running(requires=A1)
    crash(claimed.worker_id)
    worker("queue")
    _sweep()
    assert (state(claimed.job_id), job(claimed.job_id).lane) == (State.QUEUED, "suspect")


# --- Reasons that only a person lifts --------------------------------------------------------------------------------


def _blocked_on_version() -> UUID:
    claimed = running()
    end(claimed, Blocked("version", PROBLEM))
    return claimed.job_id


def test_a_job_blocked_on_its_version_waits_for_a_person() -> None:
    job_id = _blocked_on_version()
    before = snapshot()
    _sweep()
    assert script.run(holds.unblockable()) == []
    assert not script.run(holds.unblock(job_id))
    assert snapshot() == before


def test_many_jobs_that_only_a_person_lifts_do_not_hide_one_that_can_go_on() -> None:
    queue_in_bulk(PAGE + 1)
    Job.objects.update(state="blocked", blocked_on=["version"])
    script.run(place("all", "paused", by="ada"))
    job_id = submitted(hold_keys=["all"])
    script.run(lift("all", "paused"))
    _sweep()
    assert state(job_id) is State.QUEUED
    assert take(worker()) is not None
