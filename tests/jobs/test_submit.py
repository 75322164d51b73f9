from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import redis
from django.db import transaction

from jobs import handlers, script, wakeups
from jobs.holds import place
from jobs.lanes import UnknownLane
from jobs.models import Job, JobEvent
from jobs.models.job import Priority
from jobs.retry import RetryPolicy
from jobs.script import Script
from jobs.states import State
from jobs.submit import LaneFull, Submission, submit
from tests.jobs.drive import (
    actor,
    ask,
    at_once,
    end,
    job,
    last_event,
    pass_time,
    person,
    running,
    snapshot,
    story,
    submitted,
    taken,
    worker,
)


def test_a_submission_is_a_row_an_event_and_a_message() -> None:
    user = person()
    made = submit(Submission("test.noop", {"n": 1}, "queue", user_id=user.pk, priority=Priority.P0, time_limit_s=9))
    assert (made.state, made.created) == (State.QUEUED, True)
    row = job(made.job_id)
    assert (row.handler, row.payload, row.user, row.state) == ("test.noop", {"n": 1}, user, "queued")
    assert (row.lane, row.home_lane, row.priority, row.time_limit_s) == ("queue", "queue", 0, 9)
    assert (row.attempt, row.crashes, row.generation, row.fence) == (0, 0, 1, 0)
    assert row.queued_at is not None
    assert row.finished_at is row.started_at is row.claimed_at is None
    assert story(made.job_id) == [("", "queued", "submitted")]
    assert wakeups.depth("queue") == 1


def test_the_message_names_no_job() -> None:
    submitted(payload={"secret": "s3cr3t"})
    (message,) = wakeups.queue("queue").jobs
    assert (message.func_name, message.args, message.kwargs) == ("jobs.wakeups.wake", [], {})


def test_the_message_leaves_only_with_the_commit() -> None:
    with transaction.atomic():
        submitted()
        assert wakeups.depth("queue") == 0
    assert wakeups.depth("queue") == 1


def test_nothing_is_left_of_a_submission_that_is_rolled_back() -> None:
    before = snapshot()
    with transaction.atomic():
        submitted(partition_key="p")
        transaction.set_rollback(True)
    assert snapshot() == before
    assert wakeups.depth("queue") == 0


def test_what_goes_with_the_job_stands_or_falls_with_it() -> None:
    def with_job(job_id: object) -> Script[None]:
        yield "INSERT INTO jobs_wait (job_id, kind, key) VALUES (%s, 'event', 'k')", [job_id]

    made = submitted(with_job=with_job)
    assert ask("SELECT job_id FROM jobs_wait") == [{"job_id": made}]

    def refuse(job_id: object) -> Script[None]:
        yield from with_job(job_id)
        raise RuntimeError("no")

    before = snapshot()
    with pytest.raises(RuntimeError, match="no"):
        submitted(with_job=refuse)
    assert snapshot() == before


def test_a_lane_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UnknownLane, match="no lane 'fast'"):
        submitted(lane="fast")
    assert not Job.objects.exists()


def test_a_submission_succeeds_while_redis_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    dead = redis.Redis.from_url("unix:///nowhere/redis.sock")
    monkeypatch.setattr(wakeups, "client", lambda: dead)
    wakeups.queue.cache_clear()
    try:
        made = submitted()
        assert wakeups.depth("queue") is None
    finally:
        wakeups.queue.cache_clear()
    assert taken(worker()).job_id == made


def test_a_job_with_a_time_is_scheduled_and_wakes_nobody() -> None:
    at = datetime.now(UTC) + timedelta(hours=1)
    made = submit(Submission("test.noop", {}, "queue", run_at=at))
    assert made.state is State.SCHEDULED
    row = job(made.job_id)
    assert (row.state, row.run_at, row.queued_at) == ("scheduled", at, None)
    assert wakeups.depth("queue") == 0


def test_a_job_under_a_hold_is_blocked_from_the_start() -> None:
    script.run(place("agent:a", "paused", by="ada"))
    script.run(place("agent:a", "budget", by="ada"))
    made = submit(Submission("test.noop", {}, "queue", hold_keys=("all", "agent:a")))
    assert made.state is State.BLOCKED
    assert job(made.job_id).blocked_on == ["hold:agent:a"]
    assert wakeups.depth("queue") == 0


def test_a_job_has_the_attempts_of_its_handlers_policy_unless_the_caller_says_otherwise() -> None:
    async def never(claim: handlers.Claim) -> handlers.Outcome:
        raise NotImplementedError

    handlers.register_function("test.five", never, retry=RetryPolicy(max_attempts=5))
    assert job(submitted("test.five")).max_attempts == 5
    assert job(submitted("test.five", max_attempts=1)).max_attempts == 1
    assert job(submitted("of-another-process")).max_attempts == 3


def test_a_full_lane_refuses_with_the_time_to_wait() -> None:
    for _ in range(3):
        submitted(max_depth=3)
    with pytest.raises(LaneFull) as refused:
        submitted(max_depth=3)
    assert (refused.value.lane, refused.value.max_depth) == ("queue", 3)
    assert refused.value.retry_after_s == 60  # nothing has ended lately: nobody knows better
    assert Job.objects.count() == 3
    submitted(lane="batch", max_depth=3)
    submitted()  # a caller who sets no limit


def test_the_time_to_wait_is_what_the_lane_needed_for_one_job_lately() -> None:
    for _ in range(6):
        end(running(), handlers.Succeeded())
    pass_time(61)
    for _ in range(4):
        end(running(), handlers.Succeeded())
    submitted()
    with pytest.raises(LaneFull) as refused:
        submitted(max_depth=1)
    assert refused.value.retry_after_s == 15  # four in the last minute


def test_only_queued_jobs_count_for_the_depth() -> None:
    running()
    submitted(run_at=datetime.now(UTC) + timedelta(hours=1))
    submitted(max_depth=1)
    with pytest.raises(LaneFull):
        submitted(max_depth=1)


def test_jobs_submitted_at_once_are_all_there() -> None:
    made = at_once(*[submitted] * 6)
    assert len({str(job_id) for job_id in made}) == 6
    assert Job.objects.filter(state="queued").count() == 6
    assert JobEvent.objects.count() == 6
    assert wakeups.depth("queue") == 6


def test_the_submitters_name_is_no_part_of_the_first_event() -> None:
    assert last_event(submitted(user_id=actor().user_id)).actor == ""
