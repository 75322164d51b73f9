from __future__ import annotations

from typing import Any

import pytest
from django.core.management import call_command
from django.db import IntegrityError

from audit.trail import SYSTEM
from jobs import script
from jobs.actions import Cancel
from jobs.models import Job
from jobs.script import Script
from jobs.states import ENDED, LIVE, REDRIVABLE, TRANSITIONS, State, check
from jobs.transitions import IllegalTransition, change, lock
from tests.jobs.drive import PROBLEM, ask, job, snapshot, state, story, submitted, worker


def test_the_table_is_checked_when_it_is_imported() -> None:
    check(TRANSITIONS)
    without: dict[State, frozenset[State]] = {old: news for old, news in TRANSITIONS.items() if old != "waiting"}
    with pytest.raises(ValueError, match="every state has a row"):
        check(without)
    with pytest.raises(ValueError, match="unreachable: discarded"):
        check({**TRANSITIONS, State.DEAD: TRANSITIONS[State.DEAD] - {State.DISCARDED}})
    with pytest.raises(ValueError, match="a waiting job"):
        check({**TRANSITIONS, State.WAITING: frozenset({State.QUEUED})})
    with pytest.raises(ValueError, match="succeeded is an end"):
        check({**TRANSITIONS, State.SUCCEEDED: frozenset({State.QUEUED})})


def test_a_job_is_either_live_or_ended() -> None:
    assert set(State) == LIVE | ENDED
    assert not LIVE & ENDED
    assert REDRIVABLE < ENDED
    assert {old for old in ENDED if TRANSITIONS[old]} == REDRIVABLE


def _put(new: State) -> Any:
    """Return a script that changes the only job there is."""

    def move() -> Script[None]:
        locked = yield from lock(Job.objects.get().id)
        assert locked is not None
        sets: dict[str, Any] = {}
        if new is State.SCHEDULED:
            rows = yield "SELECT now() AS at", []
            sets["run_at"] = rows[0]["at"]
        if new is State.RUNNING:
            sets["worker_id"] = worker_id
        yield from change(
            locked, new, reason="test", sets=sets, blocked_on=["test"] if new is State.BLOCKED else [], data=PROBLEM
        )

    worker_id = worker()
    return move()


#: A way to each state, by changes that the table has.
_WAYS: dict[State, tuple[State, ...]] = {
    State.QUEUED: (),
    State.SCHEDULED: (State.RUNNING, State.SCHEDULED),
    State.BLOCKED: (State.BLOCKED,),
    State.RUNNING: (State.RUNNING,),
    State.WAITING: (State.RUNNING, State.WAITING),
    State.SUCCEEDED: (State.RUNNING, State.SUCCEEDED),
    State.DEAD: (State.RUNNING, State.DEAD),
    State.DISCARDED: (State.RUNNING, State.DEAD, State.DISCARDED),
    State.CANCELLED: (State.CANCELLED,),
}


@pytest.mark.parametrize("old", State)
def test_every_change_the_table_has_is_made_and_recorded_and_no_other_is(old: State) -> None:
    for new in State:
        Job.objects.all().delete()
        job_id = submitted()
        for step in _WAYS[old]:
            script.run(_put(step))
        assert state(job_id) is old
        before, told = snapshot(), len(story(job_id))
        if new in TRANSITIONS[old]:
            script.run(_put(new))
            assert state(job_id) is new
            assert story(job_id)[told:] == [(old, new, "test")]
            assert (job(job_id).finished_at is not None) == (new in ENDED)
        else:
            move = _put(new)
            before = snapshot()
            with pytest.raises(IllegalTransition, match=f"{old} → {new}"):
                script.run(move)
            assert snapshot() == before


@pytest.mark.parametrize(
    ("constraint", "sets"),
    [
        ("job_state_known", "state = 'lost'"),
        ("job_priority_known", "priority = 4"),
        ("job_blocked_has_reasons", "state = 'blocked'"),
        ("job_blocked_has_reasons", "blocked_on = '{partition}'"),
        ("job_running_has_worker", "state = 'running'"),
        ("job_running_has_worker", "worker_id = (SELECT id FROM jobs_worker LIMIT 1)"),
        ("job_scheduled_has_time", "state = 'scheduled'"),
        ("job_ended_has_time", "state = 'dead'"),
        ("job_ended_has_time", "finished_at = now()"),
    ],
)
def test_the_database_refuses_rows_that_cannot_be(constraint: str, sets: str) -> None:
    submitted()
    worker()
    with pytest.raises(IntegrityError, match=constraint):
        ask(f"UPDATE jobs_job SET {sets}")


@pytest.mark.parametrize(
    ("constraint", "sets"),
    [
        ("worker_end_known", "\"end\" = 'asleep', ended_at = now()"),
        ("worker_end_has_reason", "\"end\" = 'lost'"),
        ("worker_end_has_reason", "ended_at = now()"),
    ],
)
def test_the_database_refuses_workers_that_cannot_be(constraint: str, sets: str) -> None:
    worker()
    with pytest.raises(IntegrityError, match=constraint):
        ask(f"UPDATE jobs_worker SET {sets}")


def test_a_change_of_a_row_that_was_not_locked_is_noticed() -> None:
    job_id = submitted()
    seen = ask("SELECT * FROM jobs_job WHERE id = %s", [job_id])[0]
    Cancel(SYSTEM).run(job_id)
    before = snapshot()
    with pytest.raises(IllegalTransition, match="is no longer queued"):
        script.run(change(seen, State.BLOCKED, reason="test", blocked_on=["test"]))
    assert snapshot() == before


def test_the_database_lets_only_one_job_of_a_partition_be_active() -> None:
    first, second = submitted(partition_key="p"), submitted(partition_key="p")
    with pytest.raises(IntegrityError, match="job_one_active_per_partition"):
        ask("UPDATE jobs_job SET state = 'queued', blocked_on = '{}' WHERE id = %s", [second])
    assert (state(first), state(second)) == (State.QUEUED, State.BLOCKED)


def test_the_migrations_make_what_the_models_say() -> None:
    call_command("makemigrations", "jobs", check=True, dry_run=True, verbosity=0)
