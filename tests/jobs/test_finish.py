from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from audit.trail import SYSTEM
from jobs import handlers, lease, script, wakeups
from jobs.actions import Cancel
from jobs.claim import finish, report_progress
from jobs.handlers import (
    Blocked,
    Cancelled,
    Failed,
    HandedBack,
    Outcome,
    Parked,
    Succeeded,
    Transition,
    WaitFor,
)
from jobs.holds import place
from jobs.models import Job, JobEvent, Wait
from jobs.reconcile import Reconciler
from jobs.retry import RetryPolicy
from jobs.script import Script
from jobs.states import State
from jobs.transitions import VERSION
from jobs.waits import resolve
from tests.jobs.drive import (
    PROBLEM,
    ask,
    crash,
    end,
    job,
    last_event,
    pass_time,
    running,
    snapshot,
    state,
    story,
    submitted,
    taken,
    worker,
)


def _seconds_until_due(job_id: object) -> float:
    return float(ask("SELECT extract(epoch FROM run_at - now()) AS s FROM jobs_job WHERE id = %s", [job_id])[0]["s"])


# --- One by one ------------------------------------------------------------------------------------------------------


def test_success_ends_the_job_and_forgets_the_error_of_before() -> None:
    claimed = running()
    end(claimed, Failed(PROBLEM))
    pass_time(3600)
    Reconciler().tick()
    assert job(claimed.job_id).error == PROBLEM
    end(taken(worker()), Succeeded("done"))
    row = job(claimed.job_id)
    assert (row.state, row.error, row.worker, row.attempt) == ("succeeded", None, None, 1)
    assert row.finished_at is not None


def test_a_failure_is_tried_again_later_and_charged() -> None:
    claimed = running()
    end(claimed, Failed(PROBLEM))
    row, event = job(claimed.job_id), last_event(claimed.job_id)
    assert (row.state, row.attempt, row.error, row.worker) == ("scheduled", 1, PROBLEM, None)
    assert 0 < _seconds_until_due(claimed.job_id) <= 0.06
    assert (event.reason, event.fence) == ("retry", 1)
    assert event.data is not None
    assert event.data["title"] == "No"
    assert event.data["delay_s"] == pytest.approx(0.05, abs=0.06)


def test_the_delay_is_that_of_the_handlers_policy_and_grows_with_the_attempt() -> None:
    async def never(claim: handlers.Claim) -> Outcome:
        raise NotImplementedError

    policy = RetryPolicy(max_attempts=4, base_s=100, factor=10, max_s=5000)
    handlers.register_function("test.patient", never, retry=policy)
    claimed = running("test.patient")
    for whole in (100, 1000, 5000):
        end(claimed, Failed(PROBLEM))
        assert whole / 2 - 1 <= _seconds_until_due(claimed.job_id) <= whole
        pass_time(whole)
        Reconciler().tick()
        claimed = taken(worker())
    end(claimed, Failed(PROBLEM))
    assert state(claimed.job_id) is State.DEAD


def test_a_handler_of_another_process_gets_the_ordinary_delay() -> None:
    claimed = running("of-another-process")
    end(claimed, Failed(PROBLEM))
    assert 0.9 <= _seconds_until_due(claimed.job_id) <= 2


def test_the_providers_retry_after_is_a_floor() -> None:
    claimed = running()
    end(claimed, Failed(PROBLEM, retry_after_s=120))
    assert 119 <= _seconds_until_due(claimed.job_id) <= 120


@pytest.mark.parametrize("wish", [1e300, float("inf"), float("nan"), -5.0])
def test_a_wild_retry_after_does_no_harm(wish: float) -> None:
    claimed = running()
    assert end(claimed, Failed(PROBLEM, retry_after_s=wish))
    assert _seconds_until_due(claimed.job_id) <= 24 * 3600


def test_a_job_out_of_attempts_is_a_dead_letter() -> None:
    claimed = running(max_attempts=3)
    for attempt in (1, 2, 3):
        end(claimed, Failed(PROBLEM))
        assert job(claimed.job_id).attempt == attempt
        if attempt < 3:
            pass_time(3600)
            Reconciler().tick()
            claimed = taken(worker())
            assert claimed.attempt == attempt
    row, event = job(claimed.job_id), last_event(claimed.job_id)
    assert (row.state, row.error) == ("dead", PROBLEM)
    assert (event.new, event.reason, event.data) == ("dead", "failed", PROBLEM)
    assert Job.objects.dead().get() == row


def test_a_failure_that_is_not_to_be_retried_is_a_dead_letter_at_once() -> None:
    claimed = running()
    end(claimed, Failed(PROBLEM, retriable=False))
    row = job(claimed.job_id)
    assert (row.state, row.attempt, row.error) == ("dead", 1, PROBLEM)


def test_a_job_that_is_handed_back_is_charged_nothing_and_goes_at_once() -> None:
    claimed = running()
    before = wakeups.depth("queue")
    end(claimed, HandedBack())
    row = job(claimed.job_id)
    assert (row.state, row.attempt, row.crashes, row.lane) == ("queued", 0, 0, "queue")
    assert wakeups.depth("queue") == (before or 0) + 1
    assert last_event(claimed.job_id).reason == "handed-back"


def test_a_cancelled_run_ends_as_cancelled() -> None:
    claimed = running()
    end(claimed, Cancelled())
    assert story(claimed.job_id)[-1] == ("running", "cancelled", "cancelled")


def test_a_parked_job_holds_no_worker() -> None:
    claimed = running()
    until = datetime.now(UTC) + timedelta(hours=1)
    end(claimed, Parked([WaitFor("person", "approve:1", until), WaitFor("event", "paid")]))
    row = job(claimed.job_id)
    assert (row.state, row.worker, row.attempt) == ("waiting", None, 0)
    waits = Wait.objects.filter(job=row).order_by("key")
    assert [(wait.kind, wait.key, wait.until, wait.resolved_at) for wait in waits] == [
        ("person", "approve:1", until, None),
        ("event", "paid", None, None),
    ]
    assert last_event(claimed.job_id).data == {
        "waits": [{"kind": "person", "key": "approve:1"}, {"kind": "event", "key": "paid"}]
    }


def test_a_blocked_run_says_why() -> None:
    claimed = running()
    end(claimed, Blocked(VERSION, PROBLEM))
    row = job(claimed.job_id)
    assert (row.state, row.blocked_on, row.error, row.attempt) == ("blocked", ["version"], PROBLEM, 0)
    Reconciler().tick()
    assert state(claimed.job_id) is State.BLOCKED, "only a person lifts it"


def test_every_outcome_takes_a_suspect_home_but_one_that_is_handed_back() -> None:
    outcomes: list[tuple[Outcome, str]] = [
        (Failed(PROBLEM), "queue"),
        (Parked([WaitFor("person", "approve")]), "queue"),
        (Blocked(VERSION), "queue"),
        (HandedBack(), "suspect"),
    ]
    for outcome, lane in outcomes:
        claimed = running()
        crash(claimed.worker_id)
        suspect = taken(worker("suspect"), "suspect")
        assert suspect.lane == "suspect"
        end(suspect, outcome)
        assert job(claimed.job_id).lane == lane
        Job.objects.all().delete()


def test_a_suspect_that_goes_on_at_once_wakes_its_home_lane() -> None:
    """What it waits for has come before it parks: it is queued in its home lane, so the message goes there."""
    claimed = running()
    crash(claimed.worker_id)
    suspect = taken(worker("suspect"), "suspect")
    script.run(resolve(claimed.job_id, "approve", True, kind="person"))
    home, away = wakeups.depth("queue") or 0, wakeups.depth("suspect") or 0
    end(suspect, Parked([WaitFor("person", "approve")]))
    assert (job(claimed.job_id).state, job(claimed.job_id).lane) == ("queued", "queue")
    assert (wakeups.depth("queue"), wakeups.depth("suspect")) == (home + 1, away)


# --- Asked to stop ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "outcome",
    [
        Failed(PROBLEM),
        Failed(PROBLEM, retriable=False),
        Parked([WaitFor("person", "approve")]),
        Blocked(VERSION),
        HandedBack(),
        Cancelled(),
    ],
    ids=lambda outcome: type(outcome).__name__,
)
def test_a_job_that_was_asked_to_stop_is_cancelled_whatever_it_came_to(outcome: Outcome) -> None:
    claimed = running()
    Cancel(SYSTEM).run(claimed.job_id)
    end(claimed, outcome)
    assert state(claimed.job_id) is State.CANCELLED
    assert not Wait.objects.exists()


def test_unless_it_had_succeeded_by_then() -> None:
    claimed = running()
    Cancel(SYSTEM).run(claimed.job_id)
    end(claimed, Succeeded())
    assert state(claimed.job_id) is State.SUCCEEDED


# --- The handler's part ----------------------------------------------------------------------------------------------


@pytest.fixture
def told() -> list[Transition]:
    """What a handler `test.told` hears of the changes of its jobs."""
    heard: list[Transition] = []

    async def never(claim: handlers.Claim) -> Outcome:
        raise NotImplementedError

    def on_transition(change: Transition) -> Script[None]:
        heard.append(change)
        yield (
            "INSERT INTO jobs_jobevent (job_id, kind, old, new, fence, actor, reason)"
            " VALUES (%s, 'emit', '', '', 0, '', %s)",
            [change.job_id, f"{change.old}-{change.new}"],
        )
        if change.payload.get("refuse") == change.new:
            raise RuntimeError("the handler refuses")

    handlers.register_function("test.told", never, on_transition=on_transition)
    return heard


def _emitted(job_id: UUID) -> list[str]:
    return list(JobEvent.objects.filter(job_id=job_id, kind="emit").order_by("id").values_list("reason", flat=True))


def test_the_handler_has_a_part_in_every_change_but_the_claim(told: list[Transition]) -> None:
    claimed = running("test.told", payload={"n": 1})
    end(claimed, Parked([WaitFor("person", "approve")]))
    script.run(resolve(claimed.job_id, "approve", True))
    end(taken(worker()), Succeeded("done"))
    assert _emitted(claimed.job_id) == ["running-waiting", "waiting-queued", "running-succeeded"]
    assert [(change.reason, type(change.outcome).__name__) for change in told] == [
        ("parked", "Parked"),
        ("resolved", "NoneType"),
        ("finished", "Succeeded"),
    ]
    assert told[-1] == Transition(
        claimed.job_id, "test.told", {"n": 1}, State.RUNNING, State.SUCCEEDED, "finished", Succeeded("done")
    )


def test_whoever_makes_the_change(told: list[Transition]) -> None:
    claimed = running("test.told")
    crash(claimed.worker_id)
    Cancel(SYSTEM).run(claimed.job_id)
    assert _emitted(claimed.job_id) == ["running-queued", "queued-cancelled"]


def test_a_change_that_the_handler_refuses_is_not_made(told: list[Transition]) -> None:
    claimed = running("test.told", payload={"refuse": "succeeded"}, partition_key="p")
    submitted(partition_key="p")
    before = snapshot()
    with pytest.raises(RuntimeError, match="the handler refuses"):
        end(claimed, Succeeded())
    assert snapshot() == before
    assert end(claimed, Failed(PROBLEM, retriable=False))


# --- Progress --------------------------------------------------------------------------------------------------------


def test_progress_is_on_the_row_and_told_as_an_event() -> None:
    claimed = running()
    script.run(report_progress(claimed, {"done": 3, "total": 10}))
    assert job(claimed.job_id).progress == {"done": 3, "total": 10}
    event = last_event(claimed.job_id)
    assert (event.kind, event.data, event.fence) == ("progress", {"done": 3, "total": 10}, 1)
    assert state(claimed.job_id) is State.RUNNING


# --- Crashes ---------------------------------------------------------------------------------------------------------


def _crash_as_suspect() -> Any:
    dying = worker("suspect")
    claimed = taken(dying, "suspect")
    crash(dying)
    return claimed.job_id


def test_the_first_crash_is_free_and_makes_a_suspect() -> None:
    claimed = running()
    crash(claimed.worker_id)
    row = job(claimed.job_id)
    assert (row.state, row.lane, row.home_lane) == ("queued", "suspect", "queue")
    assert (row.attempt, row.crashes) == (0, 0)
    assert wakeups.depth("suspect") == 1


def test_three_crashes_alone_in_a_process_make_a_dead_letter() -> None:
    claimed = running()
    crash(claimed.worker_id)
    for crashes in (1, 2):
        _crash_as_suspect()
        assert (job(claimed.job_id).crashes, state(claimed.job_id)) == (crashes, State.QUEUED)
    _crash_as_suspect()
    row, event = job(claimed.job_id), last_event(claimed.job_id)
    assert (row.state, row.crashes, row.attempt) == ("dead", 3, 0)
    assert row.error is not None
    assert row.error["type"] == "/problems/worker-died"
    assert "died 3 times in a row" in row.error["detail"]
    assert (event.reason, event.data) == ("worker-died", row.error)


def test_a_job_with_one_attempt_still_gets_its_free_crash() -> None:
    claimed = running(max_attempts=1)
    crash(claimed.worker_id)
    assert state(claimed.job_id) is State.QUEUED
    _crash_as_suspect()
    assert state(claimed.job_id) is State.DEAD


def test_a_worker_that_stopped_in_good_order_has_not_crashed() -> None:
    claimed = running()
    crash(claimed.worker_id)
    for _ in range(5):
        stopping = worker("suspect")
        taken(stopping, "suspect")
        script.run(lease.end(stopping, "stopped"))
    row = job(claimed.job_id)
    assert (row.state, row.lane, row.crashes) == ("queued", "suspect", 0)


def test_a_suspect_that_fails_or_parks_goes_home_and_keeps_its_count() -> None:
    claimed = running()
    crash(claimed.worker_id)
    _crash_as_suspect()
    end(taken(worker("suspect"), "suspect"), Failed(PROBLEM))
    pass_time(3600)
    Reconciler().tick()
    again = taken(worker())
    assert (again.lane, again.crashes, again.attempt) == ("queue", 1, 1)
    end(again, Parked([WaitFor("event", "e")]))
    script.run(resolve(claimed.job_id, "e", None))
    assert taken(worker()).crashes == 1


def test_one_poison_job_takes_none_of_its_neighbours_with_it() -> None:
    shared = worker()
    made = [submitted() for _ in range(4)]
    for _ in made:
        taken(shared)
    crash(shared)
    poison, order = made[0], []
    while state(poison) is not State.DEAD:
        mine = worker("suspect")
        claimed = taken(mine, "suspect")
        order.append(claimed.job_id)
        if claimed.job_id == poison:
            crash(mine)
        else:
            end(claimed, Succeeded())
    assert order == [poison, *made[1:], poison, poison], "after its crash the others go first"
    assert {state(job_id) for job_id in made[1:]} == {State.SUCCEEDED}


def test_a_job_that_was_asked_to_stop_is_cancelled_when_its_worker_dies() -> None:
    claimed = running()
    Cancel(SYSTEM).run(claimed.job_id)
    crash(claimed.worker_id)
    assert story(claimed.job_id)[-1] == ("running", "cancelled", "worker-died")


def test_a_job_under_a_hold_that_its_dead_worker_leaves_is_not_claimed() -> None:
    claimed = running(hold_keys=["all"])
    script.run(place("all", "kill-switch", by="ada"))
    crash(claimed.worker_id)
    Reconciler().tick()
    row = job(claimed.job_id)
    assert (row.state, row.blocked_on, row.lane) == ("blocked", ["hold:all"], "suspect")


def test_an_unknown_outcome_is_refused() -> None:
    claimed = running()
    before = snapshot()
    with pytest.raises(TypeError, match="no outcome"):
        script.run(finish(claimed, None))  # type: ignore[arg-type]
    assert snapshot() == before
