from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from audit.trail import SYSTEM
from jobs import script
from jobs.actions import Cancel, Discard, Redrive
from jobs.claim import finish
from jobs.handlers import Blocked, Failed, HandedBack, Outcome, Parked, Succeeded, WaitFor
from jobs.holds import lift, place
from jobs.ids import uuid7
from jobs.models import Job
from jobs.reconcile import Reconciler
from jobs.states import State
from jobs.submit import Submission, submit, submit_script
from jobs.transitions import VERSION
from jobs.waits import resolve
from tests.jobs.drive import (
    PROBLEM,
    Waiter,
    ask,
    at_once,
    crash,
    end,
    job,
    pass_time,
    session,
    state,
    story,
    submitted,
    take,
    taken,
    worker,
)

LATER = datetime(2100, 1, 1, tzinfo=UTC)


def _three(key: str = "p", **first: Any) -> tuple[UUID, UUID, UUID]:
    return submitted(partition_key=key, **first), submitted(partition_key=key), submitted(partition_key=key)


def test_jobs_of_one_key_run_one_by_one_in_the_order_they_came() -> None:
    made = [submitted(partition_key="p") for _ in range(5)]
    mine, order = worker(), []
    while (claimed := take(mine)) is not None:
        assert take(mine) is None, "two of one key at once"
        order.append(claimed.job_id)
        end(claimed, Succeeded())
    assert order == made
    assert story(made[1]) == [
        ("", "blocked", "submitted"),
        ("blocked", "queued", "unblocked"),
        ("queued", "running", "claimed"),
        ("running", "succeeded", "finished"),
    ]


def test_jobs_of_other_keys_and_of_none_go_beside_them() -> None:
    submitted(partition_key="p")
    submitted(partition_key="q")
    submitted()
    mine = worker()
    assert all(take(mine) for _ in range(3))


@pytest.mark.parametrize(
    ("outcome", "goes_on"),
    [
        (Succeeded(), True),
        (Failed(PROBLEM, retriable=False), True),  # dead
        (Failed(PROBLEM), False),  # to be tried again
        (Parked([WaitFor("person", "approve")]), False),
        (Blocked(VERSION), False),
        (HandedBack(), False),
    ],
)
def test_a_head_that_ended_makes_way_and_one_that_has_yet_to_end_does_not(outcome: Outcome, goes_on: bool) -> None:
    first, second, third = _three()
    claimed = taken(worker())
    assert claimed.job_id == first
    end(claimed, outcome)
    Reconciler().tick()
    assert state(second) is (State.QUEUED if goes_on else State.BLOCKED)
    assert state(third) is State.BLOCKED
    assert job(third).blocked_on == ["partition"]


def test_a_head_that_waits_or_tries_again_is_still_the_first() -> None:
    first, second, _ = _three()
    mine = worker()
    end(taken(mine), Parked([WaitFor("person", "approve")]))
    script.run(resolve(first, "approve", True))
    claimed = taken(mine)
    assert claimed.job_id == first
    end(claimed, Failed(PROBLEM))
    pass_time(3600)
    Reconciler().tick()
    mine = worker()
    claimed = taken(mine)
    assert claimed.job_id == first
    end(claimed, Succeeded())
    assert taken(mine).job_id == second


def test_a_head_whose_worker_died_is_still_the_first() -> None:
    first, second, _ = _three()
    dying = worker()
    taken(dying)
    crash(dying)
    assert take(worker()) is None
    claimed = taken(worker("suspect"), "suspect")
    assert claimed.job_id == first
    end(claimed, Succeeded())
    assert taken(worker()).job_id == second


def test_a_cancelled_head_makes_way_wherever_it_stood() -> None:
    first, second, third = _three()
    Cancel(SYSTEM).run(first)
    assert state(second) is State.QUEUED
    claimed = taken(worker())
    Cancel(SYSTEM).run(second)
    assert state(third) is State.BLOCKED, "its owner has yet to stop"
    end(claimed, Succeeded())
    assert state(third) is State.QUEUED


def test_a_job_cancelled_in_the_middle_leaves_the_order_as_it_is() -> None:
    first, second, third = _three()
    Cancel(SYSTEM).run(second)
    assert (state(first), state(third)) == (State.QUEUED, State.BLOCKED)
    mine = worker()
    end(taken(mine), Succeeded())
    assert taken(mine).job_id == third


def test_a_head_that_is_scheduled_keeps_the_rest_back() -> None:
    first, second, _ = _three(run_at=datetime.now(UTC) + timedelta(hours=1))
    Reconciler().tick()
    assert (state(first), state(second)) == (State.SCHEDULED, State.BLOCKED)
    pass_time(3601)
    Reconciler().tick()
    assert (state(first), state(second)) == (State.QUEUED, State.BLOCKED)


def test_a_scheduled_job_waits_for_its_turn_when_its_time_has_come() -> None:
    first = submitted(partition_key="p")
    second = submitted(partition_key="p", run_at=datetime.now(UTC) + timedelta(hours=1))
    pass_time(3601)
    Reconciler().tick()
    assert (state(first), state(second)) == (State.QUEUED, State.BLOCKED)
    assert story(second)[-1] == ("scheduled", "blocked", "due")
    mine = worker()
    end(taken(mine), Succeeded())
    assert taken(mine).job_id == second


def test_a_dead_letter_does_not_block_and_comes_back_in_front() -> None:
    first, second, third = _three()
    mine = worker()
    end(taken(mine), Failed(PROBLEM, retriable=False))
    running = taken(mine)
    assert running.job_id == second
    assert Redrive(SYSTEM).run(first) is State.BLOCKED
    end(running, Succeeded())
    assert (state(first), state(third)) == (State.QUEUED, State.BLOCKED)


def test_a_dead_letter_is_redriven_at_once_before_younger_ones_that_have_not_begun() -> None:
    first, second, _ = _three()
    mine = worker()
    end(taken(mine), Failed(PROBLEM, retriable=False))
    script.run(place("p", "paused", by="ada"))
    ask("UPDATE jobs_job SET hold_keys = '{p}' WHERE id = %s", [second])
    Reconciler().tick()
    assert state(second) is State.BLOCKED
    assert Redrive(SYSTEM).run(first) is State.QUEUED
    script.run(lift("p", "paused"))
    Reconciler().tick()
    assert (state(first), state(second)) == (State.QUEUED, State.BLOCKED)


def test_a_retry_gives_way_to_an_older_job_that_was_redriven_meanwhile() -> None:
    first, second, third = _three()
    mine = worker()
    end(taken(mine), Failed(PROBLEM, retriable=False))
    running = taken(mine)
    Redrive(SYSTEM).run(first)
    end(running, Failed(PROBLEM))
    assert (state(first), state(second)) == (State.QUEUED, State.SCHEDULED)
    pass_time(3600)
    Reconciler().tick()
    assert (state(first), state(second), state(third)) == (State.QUEUED, State.BLOCKED, State.BLOCKED)
    mine = worker()
    order = []
    while (claimed := take(mine)) is not None:
        order.append(claimed.job_id)
        end(claimed, Succeeded())
    assert order == [first, second, third]


def test_a_parked_job_and_an_older_one_that_came_back_do_not_block_each_other() -> None:
    first, second, _ = _three()
    mine = worker()
    end(taken(mine), Failed(PROBLEM, retriable=False))
    end(taken(mine), Parked([WaitFor("person", "approve")]))
    assert Redrive(SYSTEM).run(first) is State.BLOCKED
    script.run(resolve(second, "approve", True))
    assert (state(first), state(second)) == (State.QUEUED, State.BLOCKED)
    end(taken(mine), Succeeded())
    assert state(second) is State.QUEUED


def test_a_discarded_job_stays_out_of_the_way() -> None:
    first, second, _ = _three()
    mine = worker()
    end(taken(mine), Failed(PROBLEM, retriable=False))
    Discard(SYSTEM, note="not wanted").run(first)
    end(taken(mine), Succeeded())
    assert state(second) is State.SUCCEEDED


def test_a_head_under_a_hold_keeps_the_rest_back_until_it_is_lifted() -> None:
    script.run(place("agent:a", "paused", by="ada"))
    first, second, _ = _three(hold_keys=["agent:a"])
    Reconciler().tick()
    assert (state(first), state(second)) == (State.BLOCKED, State.BLOCKED)
    script.run(lift("agent:a", "paused"))
    Reconciler().tick()
    assert (state(first), state(second)) == (State.QUEUED, State.BLOCKED)


def test_a_head_that_nobody_promoted_is_found_by_the_sweep() -> None:
    """As after a crash of somebody who deleted the head by hand."""
    first, second, third = _three()
    Job.objects.filter(pk=first).delete()
    assert (state(second), state(third)) == (State.BLOCKED, State.BLOCKED)
    Reconciler().tick()
    assert (state(second), state(third)) == (State.QUEUED, State.BLOCKED)


def test_the_order_is_that_of_submission_whatever_the_clocks_say() -> None:
    """Each machine's clock is behind that of the one before, so that each id proposed is older than the last."""
    first = submitted(partition_key="p", job_id=uuid7())
    proposed = [UUID(f"00000000-0000-7000-8000-00000000000{n}") for n in (3, 2, 1)]
    rest = [submitted(partition_key="p", job_id=job_id) for job_id in proposed]
    mine, order = worker(), []
    while (claimed := take(mine)) is not None:
        order.append(claimed.job_id)
        end(claimed, Succeeded())
    assert order == [first, *rest]


def test_two_who_submit_to_one_key_at_once_go_one_after_the_other() -> None:
    with session() as other:
        other.do(submit_script(Submission("test.noop", {}, "queue", partition_key="p")))
        late = Waiter(lambda: submit(Submission("test.noop", {}, "queue", partition_key="p")))
        assert late.blocked(), "it must not miss the one that is being submitted"
        other.connection.commit()
        assert late.end().state is State.BLOCKED
    assert sorted(Job.objects.values_list("state", flat=True)) == ["blocked", "queued"]


def test_one_who_submits_while_the_head_ends_is_not_forgotten() -> None:
    submitted(partition_key="p")
    claimed = taken(worker())
    with session() as owner:
        owner.do(finish(claimed, Succeeded()))
        late = Waiter(lambda: submit(Submission("test.noop", {}, "queue", partition_key="p")))
        assert late.blocked()
        owner.connection.commit()
        assert late.end().state is State.QUEUED


def test_many_submitting_at_once_leave_one_active_and_lose_none() -> None:
    made = at_once(*[lambda: submitted(partition_key="p")] * 6)
    assert Job.objects.filter(state="queued").count() == 1
    mine, order = worker(), []
    while (claimed := take(mine)) is not None:
        order.append(claimed.job_id)
        end(claimed, Succeeded())
    assert order == sorted(UUID(str(job_id)) for job_id in made)


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_done_to_a_partition_at_once_one_is_active_and_all_get_their_turn(seed: int) -> None:
    chance = random.Random(seed)
    made = [submitted(partition_key="p", max_attempts=1) for _ in range(6)]
    mine = worker()
    end(taken(mine), Failed(PROBLEM))
    running = taken(mine)
    deeds = [
        lambda: Redrive(SYSTEM).run(made[0]),
        lambda: end(running, Succeeded()),
        lambda: Cancel(SYSTEM).run(made[2]),
        lambda: submitted(partition_key="p"),
        lambda: Cancel(SYSTEM).run(made[4]),
        lambda: submitted(partition_key="p"),
    ]
    chance.shuffle(deeds)
    results = at_once(*deeds)
    assert not [result for result in results if isinstance(result, Exception)]
    assert Job.objects.filter(state__in=["queued", "running", "waiting"]).count() == 1
    order = []
    while (claimed := take(mine)) is not None:
        order.append(claimed.job_id)
        end(claimed, Succeeded())
    assert len(order) == 5
    assert order[1:] == sorted(order[1:]), "but for the one that had its turn already, the oldest goes first"
    assert not Job.objects.live().exists()
