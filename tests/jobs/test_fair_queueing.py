from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from jobs import script
from jobs.fairness import next_tag
from jobs.handlers import Failed, HandedBack, Parked, Succeeded, WaitFor
from jobs.holds import lift, place
from jobs.models import Job
from jobs.models.job import Priority
from jobs.reconcile import Reconciler
from jobs.script import After
from jobs.waits import resolve
from tests.jobs.drive import PROBLEM, ask, crash, end, job, pass_time, person, queue_in_bulk, submitted, taken, worker


def _many(user: str, count: int, **more: Any) -> list[UUID]:
    return [submitted(user_id=person(user).pk, **more) for _ in range(count)]


def _order(count: int, lane: str = "queue") -> str:
    """Claim and finish ``count`` jobs; return the first letters of their users' names."""
    mine, order = worker(lane), ""
    for _ in range(count):
        claimed = taken(mine, lane)
        owner = job(claimed.job_id).user
        order += owner.username[0] if owner else "-"
        end(claimed, Succeeded())
    return order


def test_a_user_with_a_hundred_jobs_does_not_starve_another() -> None:
    _many("ada", 100)
    _many("bob", 1)
    assert "b" in _order(2)


def test_users_who_submit_together_take_turns() -> None:
    for count in range(30):
        _many("ada", 1)
        if count < 20:
            _many("bob", 1)
        if count < 10:
            _many("cyd", 1)
    order = _order(60)
    assert Counter(order[:30]) == {"a": 10, "b": 10, "c": 10}
    assert Counter(order[30:50]) == {"a": 10, "b": 10}
    assert order[50:] == "a" * 10


def test_each_new_user_gets_their_share_from_then_on() -> None:
    _many("ada", 40)
    assert _order(10) == "a" * 10
    _many("bob", 10)
    assert Counter(_order(10)) == {"a": 5, "b": 5}
    _many("cyd", 10)
    assert Counter(_order(12)) == {"a": 4, "b": 4, "c": 4}


def test_one_users_jobs_go_in_the_order_they_came() -> None:
    made = _many("ada", 10)
    mine = worker()
    assert [taken(mine).job_id for _ in range(10)] == made


def test_of_two_with_the_same_tag_the_older_goes_first() -> None:
    first, second = _many("ada", 1) + _many("bob", 1)
    assert job(first).fair_tag == job(second).fair_tag
    mine = worker()
    assert [taken(mine).job_id, taken(mine).job_id] == [first, second]


def test_jobs_of_nobody_are_one_users_jobs() -> None:
    for _ in range(5):
        submitted()
    _many("ada", 5)
    assert Counter(_order(4)) == {"-": 2, "a": 2}


def test_a_higher_priority_goes_before_any_lower_one() -> None:
    low, normal, high = (
        submitted(priority=Priority.P3),
        submitted(priority=Priority.P1),
        submitted(priority=Priority.P0),
    )
    mine = worker()
    assert [taken(mine).job_id for _ in range(3)] == [high, normal, low]


def test_a_users_bulk_work_costs_them_nothing_in_another_priority() -> None:
    _many("bob", 20, priority=Priority.P0)
    _many("ada", 100, priority=Priority.P3)
    _many("ada", 1, priority=Priority.P0)
    assert "a" in _order(2)


def test_a_users_place_in_one_lane_says_nothing_of_another() -> None:
    _many("ada", 50)
    _many("bob", 3, lane="batch")
    _many("ada", 3, lane="batch")
    assert Counter(_order(2, "batch")) == {"a": 1, "b": 1}


def test_jobs_that_come_due_together_take_turns_with_everybody_elses() -> None:
    at = datetime.now(UTC) + timedelta(hours=1)
    _many("ada", 20, run_at=at)
    pass_time(3601)
    Reconciler().tick()
    _many("bob", 5)
    assert Counter(_order(10)) == {"a": 5, "b": 5}


def test_jobs_that_a_hold_kept_back_take_turns_when_it_is_lifted() -> None:
    script.run(place("all", "paused", by="ada"))
    _many("ada", 20, hold_keys=["all"])
    _many("bob", 5, hold_keys=["all"])
    script.run(lift("all", "paused"))
    Reconciler().tick()
    assert Counter(_order(10)) == {"a": 5, "b": 5}


def test_a_job_that_comes_back_after_long_does_not_wait_behind_the_tags_of_then() -> None:
    """The last of a great many jobs is parked; when it goes on, the lane has begun to count anew."""
    last = _many("ada", 50)[-1]
    mine = worker()
    for _ in range(49):
        end(taken(mine), Succeeded())
    end(taken(mine), Parked([WaitFor("person", "approve")]))
    _many("bob", 10)
    script.run(resolve(last, "approve", True))
    assert _order(2).count("a") == 1


def test_an_old_tag_does_not_set_the_lanes_time_back() -> None:
    """A retry from long ago comes back into a busy lane; a newcomer must not get its old time."""
    mine = worker()
    _many("eve", 1)
    old = taken(mine)
    _many("ada", 40)
    for _ in range(20):
        end(taken(mine), Succeeded())
    end(old, Failed(PROBLEM))
    pass_time(3600)
    Reconciler().tick()
    mine = worker()
    _many("bob", 20)
    assert _order(21).count("a") == 10


def test_a_job_that_was_handed_back_goes_with_the_first() -> None:
    mine = worker()
    first = _many("ada", 10)[0]
    claimed = taken(mine)
    _many("bob", 10)
    end(claimed, HandedBack())
    assert taken(mine).job_id == first


def test_a_job_whose_worker_died_goes_with_the_first_of_the_suspects() -> None:
    for _ in range(3):
        dying = worker()
        _many("ada", 1)
        taken(dying)
        crash(dying)
    assert set(Job.objects.filter(lane="suspect").values_list("fair_tag", flat=True)) == {0}


def test_a_tag_is_found_by_indexes_however_many_jobs_are_queued() -> None:
    user = person()
    queue_in_bulk(10_000, user_id=user.pk)
    queue_in_bulk(10_000)
    ask("ANALYZE jobs_job")
    for user_id in (user.pk, None):
        asked = next(next_tag("queue", 1, user_id))
        assert not isinstance(asked, After)
        sql, params = asked
        plan = ask(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", params)[0]["QUERY PLAN"]
        assert _rows_read(plan[0]["Plan"]) < 10


def _rows_read(node: dict[str, object]) -> float:
    inner = node.get("Plans", [])
    assert isinstance(inner, list)
    removed, rows = node.get("Rows Removed by Filter", 0), node["Actual Rows"]
    assert isinstance(removed, int | float)
    assert isinstance(rows, int | float)
    return rows + removed + sum(_rows_read(child) for child in inner)
