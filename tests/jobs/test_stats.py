from __future__ import annotations

from uuid import uuid4

import pytest

from jobs.handlers import Succeeded
from jobs.models.job import Priority
from jobs.stats import eta_seconds, queue_position
from tests.jobs.drive import ask, end, running, submitted, taken, worker


def test_a_job_has_its_place_in_the_order_of_claims() -> None:
    first, second, urgent = submitted(), submitted(), submitted(priority=Priority.P0)
    submitted(lane="batch", priority=Priority.P0)
    assert [queue_position(job_id) for job_id in (urgent, first, second)] == [1, 2, 3]
    taken(worker())
    assert [queue_position(job_id) for job_id in (urgent, first, second)] == [None, 1, 2]


def test_a_job_that_is_not_queued_has_no_place() -> None:
    claimed = running()
    assert queue_position(claimed.job_id) is None
    assert eta_seconds(claimed.job_id) is None
    assert queue_position(uuid4()) is None
    assert eta_seconds(uuid4()) is None


def _finished_in(seconds: float) -> None:
    claimed = running()
    end(claimed, Succeeded())
    ask(
        "UPDATE jobs_job SET started_at = finished_at - make_interval(secs => %s) WHERE id = %s",
        [seconds, claimed.job_id],
    )
    ask("UPDATE jobs_worker SET ended_at = now(), \"end\" = 'stopped'")


def test_the_wait_is_what_the_jobs_ahead_take_over_the_slots_there_are() -> None:
    for seconds in (8, 12):
        _finished_in(seconds)
    worker("queue", slots=2)
    made = [submitted() for _ in range(5)]
    assert [eta_seconds(job_id) for job_id in made] == [10, 10, 20, 20, 30]
    worker("queue", slots=3)
    assert eta_seconds(made[-1]) == 10


def test_no_wait_is_guessed_before_anything_has_ended() -> None:
    job_id = submitted()
    worker()
    assert eta_seconds(job_id) is None


def test_a_lane_that_nobody_serves_has_no_estimate() -> None:
    _finished_in(10)
    job_id = submitted()
    worker("batch")
    assert eta_seconds(job_id) is None
    worker("queue", slots=1)
    assert eta_seconds(job_id) == pytest.approx(10)
