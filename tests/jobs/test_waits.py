from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from django.db import IntegrityError

from audit.trail import SYSTEM
from jobs import script
from jobs.actions import Cancel, Redrive
from jobs.claim import finish
from jobs.handlers import Claim, Parked, Succeeded, WaitFor
from jobs.holds import place
from jobs.models import Wait
from jobs.reconcile import Reconciler
from jobs.states import State
from jobs.waits import due, expire, resolve
from tests.jobs.drive import (
    Waiter,
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
    taken,
    worker,
)


def _in(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


def _parked(*waits: WaitFor) -> Claim:
    claimed = running()
    end(claimed, Parked(waits or [WaitFor("person", "approve")]))
    return claimed


def _wait(key: str) -> Wait:
    return Wait.objects.get(key=key)


def test_a_parked_job_goes_on_when_what_it_waits_for_comes() -> None:
    claimed = _parked()
    assert script.run(resolve(claimed.job_id, "approve", {"decision": "approve"}))
    assert story(claimed.job_id)[-1] == ("waiting", "queued", "resolved")
    wait = _wait("approve")
    assert wait.result == {"decision": "approve"}
    assert wait.resolved_at is not None
    assert taken(worker()).fence == 2


def test_it_goes_on_with_the_last_of_several() -> None:
    claimed = _parked(WaitFor("person", "a"), WaitFor("tool", "b"), WaitFor("event", "c"))
    for key in ("b", "c"):
        assert script.run(resolve(claimed.job_id, key, key))
        assert state(claimed.job_id) is State.WAITING
    assert script.run(resolve(claimed.job_id, "a", "a"))
    assert state(claimed.job_id) is State.QUEUED


def test_resolving_twice_is_harmless_and_the_first_answer_stays() -> None:
    claimed = _parked()
    assert script.run(resolve(claimed.job_id, "approve", "yes"))
    before = snapshot()
    assert not script.run(resolve(claimed.job_id, "approve", "no"))
    assert not script.run(resolve(claimed.job_id, "approve", "no", kind="person"))
    assert snapshot() == before


def test_there_is_nothing_to_resolve_of_a_job_or_a_key_that_is_not_there() -> None:
    claimed = _parked()
    before = snapshot()
    assert not script.run(resolve(uuid4(), "approve", "yes"))
    assert not script.run(resolve(uuid4(), "approve", "yes", kind="person"))
    assert not script.run(resolve(claimed.job_id, "another", "yes"))
    assert not script.run(expire(uuid4(), "approve"))
    assert snapshot() == before


def test_an_answer_that_comes_before_the_question_is_kept() -> None:
    claimed = running()
    assert script.run(resolve(claimed.job_id, "approve", "yes", kind="person"))
    end(claimed, Parked([WaitFor("person", "approve", _in(60))]))
    assert [step[1:] for step in story(claimed.job_id)[-2:]] == [("waiting", "parked"), ("queued", "resolved")]
    assert _wait("approve").result == "yes"


def test_an_early_answer_to_one_of_several_questions_leaves_the_rest_open() -> None:
    claimed = running()
    script.run(resolve(claimed.job_id, "a", "yes", kind="person"))
    end(claimed, Parked([WaitFor("person", "a"), WaitFor("person", "b")]))
    assert state(claimed.job_id) is State.WAITING
    script.run(resolve(claimed.job_id, "b", "yes"))
    assert state(claimed.job_id) is State.QUEUED


def test_an_answer_that_comes_while_the_job_parks_is_not_lost() -> None:
    claimed = running()
    with session() as owner:
        owner.do(finish(claimed, Parked([WaitFor("person", "approve")])))
        answer = Waiter(lambda: script.run(resolve(claimed.job_id, "approve", "yes")))
        assert answer.blocked(), "it waits for the job's row"
        owner.connection.commit()
        assert answer.end() is True
    assert state(claimed.job_id) is State.QUEUED


def test_a_job_that_parks_while_an_answer_comes_sees_it() -> None:
    claimed = running()
    with session() as person:
        person.do(resolve(claimed.job_id, "approve", "yes", kind="person"))
        parking = Waiter(lambda: end(claimed, Parked([WaitFor("person", "approve")])))
        assert parking.blocked()
        person.connection.commit()
        assert parking.end() is True
    assert state(claimed.job_id) is State.QUEUED


def test_a_resolved_wait_is_not_opened_again_when_the_program_comes_by_once_more() -> None:
    claimed = _parked(WaitFor("person", "a"), WaitFor("person", "b"))
    for key in ("a", "b"):
        script.run(resolve(claimed.job_id, key, key))
    end(taken(worker()), Parked([WaitFor("person", "a"), WaitFor("event", "c")]))
    assert state(claimed.job_id) is State.WAITING
    assert _wait("a").result == "a"
    script.run(resolve(claimed.job_id, "c", None))
    assert state(claimed.job_id) is State.QUEUED


def test_parking_for_nothing_goes_on_at_once() -> None:
    claimed = running()
    end(claimed, Parked([]))
    assert state(claimed.job_id) is State.QUEUED


def test_answers_to_different_questions_at_once_queue_the_job_once() -> None:
    keys = ["a", "b", "c", "d", "e"]
    claimed = _parked(*(WaitFor("event", key) for key in keys))
    results = at_once(*[lambda key=key: script.run(resolve(claimed.job_id, key, key)) for key in keys])
    assert results == [True] * 5
    assert [reason for *_, reason in story(claimed.job_id)].count("resolved") == 1


def test_of_many_answers_to_one_question_exactly_one_counts() -> None:
    claimed = _parked()
    results = at_once(*[lambda n=n: script.run(resolve(claimed.job_id, "approve", n)) for n in range(6)])
    assert sorted(map(str, results)) == ["False"] * 5 + ["True"]
    assert _wait("approve").result == results.index(True)


@pytest.mark.parametrize(("kind", "key"), [("time", "nap"), ("person", "approve")])
def test_a_wait_ends_at_its_time_or_deadline_with_no_answer(kind: str, key: str) -> None:
    wait = WaitFor(kind, key, _in(60))
    claimed = _parked(wait)
    Reconciler().tick()
    assert state(claimed.job_id) is State.WAITING
    pass_time(61)
    Reconciler().tick()
    assert state(claimed.job_id) is State.QUEUED
    assert _wait(wait.key).result is None
    assert _wait(wait.key).resolved_at is not None


def test_a_time_in_the_past_is_due_at_once() -> None:
    claimed = _parked(WaitFor("time", "nap", _in(-60)))
    Reconciler().tick()
    assert state(claimed.job_id) is State.QUEUED


def test_an_answer_in_time_stops_the_deadline() -> None:
    claimed = _parked(WaitFor("person", "a", _in(60)), WaitFor("person", "b"))
    script.run(resolve(claimed.job_id, "a", "yes"))
    pass_time(61)
    assert script.run(due()) == []
    Reconciler().tick()
    assert _wait("a").result == "yes"
    assert state(claimed.job_id) is State.WAITING


def test_a_wait_that_was_found_due_and_made_way_for_a_new_one_does_not_end_the_new_one() -> None:
    """Between the sweep's look and its deed the job is redriven from the start, and parks again with a later time."""
    claimed = _parked(WaitFor("time", "nap", _in(-1)))
    found = script.run(due())
    assert found == [(claimed.job_id, "nap")]
    Cancel(SYSTEM).run(claimed.job_id)
    Redrive(SYSTEM, from_="start").run(claimed.job_id)
    end(taken(worker()), Parked([WaitFor("time", "nap", _in(3600))]))
    assert not script.run(expire(*found[0]))
    assert state(claimed.job_id) is State.WAITING


def test_a_page_of_due_waits_is_the_oldest_first() -> None:
    waits = [WaitFor("time", f"nap-{n}", _in(-n)) for n in range(5)]
    _parked(*waits)
    assert [key for _, key in script.run(due(limit=3))] == ["nap-4", "nap-3", "nap-2"]


def test_a_resolved_job_is_blocked_when_a_hold_was_placed_meanwhile() -> None:
    claimed = running(hold_keys=["all"])
    end(claimed, Parked([WaitFor("person", "approve")]))
    script.run(place("all", "paused", by="ada"))
    script.run(resolve(claimed.job_id, "approve", True))
    assert (state(claimed.job_id), job(claimed.job_id).blocked_on) == (State.BLOCKED, ["hold:all"])


def test_an_answer_after_the_end_changes_nothing_but_the_wait() -> None:
    claimed = _parked()
    Cancel(SYSTEM).run(claimed.job_id)
    told = story(claimed.job_id)
    assert script.run(resolve(claimed.job_id, "approve", True))
    assert story(claimed.job_id) == told
    Redrive(SYSTEM).run(claimed.job_id)
    end(taken(worker()), Parked([WaitFor("person", "approve")]))
    assert state(claimed.job_id) is State.QUEUED, "the answer is there already"


def test_a_run_that_was_cancelled_while_parked_asks_again_from_its_checkpoint() -> None:
    claimed = _parked()
    Cancel(SYSTEM).run(claimed.job_id)
    Redrive(SYSTEM).run(claimed.job_id)
    end(taken(worker()), Parked([WaitFor("person", "approve")]))
    assert state(claimed.job_id) is State.WAITING
    script.run(resolve(claimed.job_id, "approve", True))
    assert state(claimed.job_id) is State.QUEUED


def test_a_wait_that_the_run_no_longer_asks_for_does_not_keep_it() -> None:
    """Parked on a, cancelled, redriven; this time the program waits for b alone."""
    claimed = _parked(WaitFor("person", "a"))
    Cancel(SYSTEM).run(claimed.job_id)
    Redrive(SYSTEM).run(claimed.job_id)
    end(taken(worker()), Parked([WaitFor("person", "b")]))
    script.run(resolve(claimed.job_id, "b", True))
    assert state(claimed.job_id) is State.QUEUED
    assert not Wait.objects.filter(key="a").exists()


def test_two_jobs_may_wait_under_the_same_key() -> None:
    one, other = _parked(), _parked()
    script.run(resolve(one.job_id, "approve", True))
    assert (state(one.job_id), state(other.job_id)) == (State.QUEUED, State.WAITING)


@pytest.mark.parametrize(
    ("constraint", "values"),
    [
        ("wait_kind_known", "'mood', 'k', NULL"),
        ("wait_time_has_time", "'time', 'k', NULL"),
        ("wait_once", "'person', 'approve', NULL"),
    ],
)
def test_the_database_refuses_waits_that_cannot_be(constraint: str, values: str) -> None:
    claimed = _parked()
    with pytest.raises(IntegrityError, match=constraint):
        ask(f"INSERT INTO jobs_wait (job_id, kind, key, until) VALUES (%s, {values})", [claimed.job_id])


def test_a_run_that_parks_and_then_ends_leaves_its_waits_on_record() -> None:
    claimed = _parked()
    script.run(resolve(claimed.job_id, "approve", "yes"))
    end(taken(worker()), Succeeded())
    assert _wait("approve").result == "yes"
