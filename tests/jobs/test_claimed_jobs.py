"""Jobs made by the worker that runs them, as in lane `chat`: whole or not at all, and taken over by another one."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest
import redis
from django.db import transaction

from audit.trail import SYSTEM
from jobs import holds, lease, script, wakeups
from jobs.actions import Cancel
from jobs.claim import fenced, forget_crashes
from jobs.handlers import Claim, Failed, HandedBack, Succeeded
from jobs.models import Job, JobEvent
from jobs.script import Script
from jobs.states import State
from jobs.submit import HeldBack, Idempotency, IdempotencyMismatch, NotLeased, Submission, submit, submit_script
from tests.jobs.drive import (
    PROBLEM,
    Waiter,
    ask,
    at_once,
    crash,
    end,
    job,
    pass_time,
    person,
    session,
    state,
    story,
    take,
    taken,
    worker,
)


def claimed(by: UUID | None = None, **more: object) -> Claim:
    """Submit a job to lane `chat` that its worker runs at once."""
    made = submit(_asked(by or worker("chat"), **more))
    assert made.claim is not None
    return made.claim


def _asked(by: UUID, **more: object) -> Submission:
    return Submission("test.noop", {"n": 1}, "chat", claimed_by=by, **more)  # type: ignore[arg-type]


# --- made --------------------------------------------------------------------------------------------------------


def test_a_job_is_submitted_and_claimed_in_one() -> None:
    by = worker("chat")
    made = submit(_asked(by, user_id=person().pk, time_limit_s=30, partition_key="p", hold_keys=("all",)))
    assert (made.state, made.created) == (State.RUNNING, True)
    row = job(made.job_id)
    assert (row.state, row.fence, row.worker_id, row.lane, row.home_lane) == ("running", 1, by, "chat", "chat")
    assert row.queued_at == row.claimed_at == row.started_at
    events = JobEvent.objects.filter(job_id=row.pk).order_by("id").values_list("old", "new", "fence", "worker_id")
    assert list(events) == [("", "queued", 0, None), ("queued", "running", 1, by)]


def test_its_claim_is_as_good_as_any() -> None:
    mine = claimed(user_id=person().pk, time_limit_s=30, partition_key="p", max_attempts=5)
    row = job(mine.job_id)
    for name in Claim.__dataclass_fields__:
        assert getattr(mine, name) == getattr(row, "id" if name == "job_id" else name), name
    script.run(fenced(mine))
    assert script.run(lease.held(mine.worker_id, older_than_s=0)) == [(mine.job_id, 1)]
    assert end(mine, Succeeded())
    assert state(mine.job_id) is State.SUCCEEDED


def test_nobody_is_woken_and_nobody_else_can_claim_it(valkey: redis.Redis) -> None:
    claimed()
    assert valkey.keys("*") == []
    assert take(worker("chat"), "chat") is None


def test_a_job_that_may_not_run_at_once_is_not_made() -> None:
    by = worker("chat")
    script.run(holds.place("agent:a", "paused", by="ada"))
    script.run(holds.place("all", "paused", by="ada"))
    with pytest.raises(HeldBack) as error:
        submit(_asked(by, hold_keys=("all", "agent:a", "agent:b")))
    assert error.value.reasons == ["hold:agent:a", "hold:all"]
    first = claimed(by, partition_key="p")
    with pytest.raises(HeldBack) as error:
        submit(_asked(by, partition_key="p"))
    assert error.value.reasons == ["partition"]
    assert list(Job.objects.values_list("pk", flat=True)) == [first.job_id]
    assert JobEvent.objects.count() == 2


def test_a_worker_without_a_lease_makes_no_job() -> None:
    late, dead = worker("chat"), worker("chat")
    ask("UPDATE jobs_worker SET lease_until = now() - interval '1 ms' WHERE id = %s", [late])
    script.run(lease.end(dead, "died"))

    def never(job_id: UUID) -> Script[None]:
        yield from ()
        raise AssertionError("nothing belongs to a job that is not there")

    for by in (late, dead, uuid4()):
        with pytest.raises(NotLeased, match=str(by)):
            submit(_asked(by, with_job=never, idempotency=Idempotency("s", "k", "b")))
    assert not Job.objects.exists()
    assert not ask("SELECT 1 FROM jobs_idempotencykey")


def test_what_belongs_to_it_stands_or_falls_with_it() -> None:
    def broken(job_id: UUID) -> Script[None]:
        yield "UPDATE jobs_job SET progress = '1' WHERE id = %s", [job_id]
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        submit(_asked(worker("chat"), with_job=broken))
    assert not Job.objects.exists()
    assert not JobEvent.objects.exists()


def test_a_repeated_key_makes_no_second_job_and_gives_no_second_claim() -> None:
    by = worker("chat")
    first = submit(_asked(by, idempotency=Idempotency("s", "k", "b")))
    again = submit(_asked(by, idempotency=Idempotency("s", "k", "b")))
    assert (again.job_id, again.created, again.claim) == (first.job_id, False, None)
    with pytest.raises(IdempotencyMismatch):
        submit(_asked(by, idempotency=Idempotency("s", "k", "other")))
    assert Job.objects.count() == 1


def test_of_many_at_once_a_partition_takes_one() -> None:
    by = worker("chat")
    for _ in range(5):
        made = at_once(*[lambda: claimed(by, partition_key="p")] * 5)
        (winner,) = (one for one in made if isinstance(one, Claim))
        assert sum(isinstance(one, HeldBack) for one in made) == 4, made
        end(winner, Succeeded())


def test_the_next_of_a_partition_has_a_later_id_than_those_that_wait() -> None:
    ahead = UUID("f198c000-0000-7000-8000-000000000000")
    by = worker("chat")
    first = claimed(by, partition_key="p", job_id=ahead)
    end(first, Succeeded())
    assert claimed(by, partition_key="p").job_id < ahead, "what has ended is in nobody's way"


def test_a_lease_that_ends_in_the_middle_takes_the_job_along_or_refuses_it() -> None:
    by = worker("chat")
    with session() as submitting:
        submitting.do(submit_script(_asked(by)))
        waiter = Waiter(lambda: crash(by))
        assert waiter.blocked()
        submitting.connection.commit()
    assert waiter.end() is None
    assert [reason for *_, reason in story(Job.objects.get().pk)] == ["submitted", "claimed", "worker-died"]

    other = worker("chat")
    with session() as ending:
        ending.do(lease.end(other, "died"))
        waiter = Waiter(lambda: claimed(other))
        assert waiter.blocked()
        ending.connection.commit()
    assert isinstance(waiter.end(), NotLeased)
    assert Job.objects.count() == 1


# --- taken over --------------------------------------------------------------------------------------------------


def test_what_a_dead_process_leaves_stays_in_its_lane_and_each_death_counts() -> None:
    mine = claimed()
    for crashes in (1, 2):
        crash(mine.worker_id)
        row = job(mine.job_id)
        assert (row.state, row.lane, row.crashes, row.attempt) == ("queued", "chat", crashes, 0)
        mine = taken(worker("chat"), "chat")
        assert (mine.fence, mine.crashes) == (crashes + 1, crashes)
    crash(mine.worker_id)
    row = job(mine.job_id)
    assert (row.state, row.lane, row.crashes) == ("dead", "chat", 3)
    assert row.error is not None
    assert row.error["type"] == "/problems/worker-died"
    assert "3 times in a row" in row.error["detail"]
    assert story(mine.job_id)[-1] == ("running", "dead", "worker-died")


def test_progress_makes_deaths_forgotten() -> None:
    mine = claimed()
    for _ in range(5):
        crash(mine.worker_id)
        mine = taken(worker("chat"), "chat")

        def step(claim: Claim = mine) -> Script[None]:
            yield from fenced(claim, exclusive=True)
            yield from forget_crashes(claim)

        script.run(step())
    crash(mine.worker_id)
    assert (state(mine.job_id), job(mine.job_id).crashes) == (State.QUEUED, 1)


def test_a_lease_that_is_lost_counts_as_a_death() -> None:
    mine = claimed(max_attempts=1)
    pass_time(lease.LEASE_S + 1)
    assert script.run(lease.close_expired(mine.worker_id))
    script.run(lease.take_abandoned(mine.job_id))
    assert state(mine.job_id) is State.DEAD


def test_a_process_that_stops_in_good_order_is_no_death() -> None:
    mine = claimed(max_attempts=1)
    for _ in range(3):
        script.run(lease.end(mine.worker_id, "stopped"))
        row = job(mine.job_id)
        assert (row.state, row.lane, row.crashes) == ("queued", "chat", 0)
        mine = taken(worker("chat"), "chat")
        end(mine, HandedBack())
        mine = taken(worker("chat"), "chat")


def test_a_reply_that_was_asked_to_stop_and_whose_process_died_is_stopped() -> None:
    mine = claimed()
    Cancel(SYSTEM).run(mine.job_id)
    crash(mine.worker_id)
    assert (state(mine.job_id), job(mine.job_id).crashes) == (State.CANCELLED, 0)


def test_what_was_left_goes_before_what_waits_behind_it_in_its_partition() -> None:
    mine = claimed(partition_key="p")
    later = submit(Submission("test.noop", {}, "chat", partition_key="p"))
    assert later.state is State.BLOCKED
    crash(mine.worker_id)
    assert taken(worker("chat"), "chat").job_id == mine.job_id
    assert state(later.job_id) is State.BLOCKED


def test_a_retry_stays_in_its_lane() -> None:
    mine = claimed()
    end(mine, Failed(PROBLEM))
    row = job(mine.job_id)
    assert (row.state, row.lane, row.attempt) == ("scheduled", "chat", 1)


# --- who hears of it ---------------------------------------------------------------------------------------------


def test_web_processes_hear_of_what_was_left_and_no_worker_does(valkey: redis.Redis) -> None:
    mine = claimed()
    with valkey.pubsub(ignore_subscribe_messages=True) as ear:  # type: ignore[no-untyped-call]
        ear.subscribe(wakeups.CHAT)
        assert ear.get_message(timeout=1) is None  # the subscription
        crash(mine.worker_id)
        heard = ear.get_message(timeout=5)
        assert heard is not None
        assert heard["channel"] == wakeups.CHAT.encode()
        assert ear.get_message(timeout=0.05) is None, "once"
    assert valkey.keys("*") == [], "no message lies in a queue that nobody serves"


def test_web_processes_hear_of_it_only_once_it_is_committed(valkey: redis.Redis) -> None:
    with valkey.pubsub(ignore_subscribe_messages=True) as ear:  # type: ignore[no-untyped-call]
        ear.subscribe(wakeups.CHAT)
        assert ear.get_message(timeout=1) is None
        with transaction.atomic():
            submit(Submission("test.noop", {}, "chat"))
            assert ear.get_message(timeout=0.05) is None
        assert ear.get_message(timeout=5) is not None


def test_other_lanes_are_woken_beside_it(valkey: redis.Redis) -> None:
    with valkey.pubsub(ignore_subscribe_messages=True) as ear:  # type: ignore[no-untyped-call]
        ear.subscribe(wakeups.CHAT)
        assert ear.get_message(timeout=1) is None
        wakeups.push(["queue", "chat", "queue"])
        assert ear.get_message(timeout=5) is not None
    assert (wakeups.depth("queue"), wakeups.depth("chat")) == (2, 0)


def test_without_redis_a_death_is_still_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> redis.Redis:
        raise redis.ConnectionError("away")

    mine = claimed()
    monkeypatch.setattr(wakeups, "client", away)
    crash(mine.worker_id)
    assert state(mine.job_id) is State.QUEUED
