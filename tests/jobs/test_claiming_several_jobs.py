"""A lane that is behind claims several jobs at once; each still has its own event, its own fence and its own slot."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

import pytest
import redis
from django.conf import settings
from django.db import connection
from rq.suspension import resume, suspend

from jobs import script
from jobs.claim import claim_some
from jobs.handlers import Succeeded
from jobs.lane_worker import AT_ONCE, LaneWorker
from jobs.models import Job, JobEvent
from jobs.rq_worker import connect
from tests.jobs import drive

SLOTS = 16


def test_a_claim_takes_the_best_jobs_best_first_and_no_more_than_it_may() -> None:
    late = drive.submitted(priority=3)
    best = [drive.submitted(priority=0), drive.submitted(priority=1)]
    claims = script.run(claim_some(drive.worker(), "queue", 2))
    assert [claim.job_id for claim in claims] == best
    assert [claim.fence for claim in claims] == [1, 1]
    assert drive.state(late) == "queued"
    for job_id in best:
        assert drive.story(job_id)[-1] == ("queued", "running", "claimed")


def test_a_claim_takes_what_there_is_when_that_is_less() -> None:
    job_id = drive.submitted()
    worker = drive.worker()
    assert [claim.job_id for claim in script.run(claim_some(worker, "queue", AT_ONCE))] == [job_id]
    assert script.run(claim_some(worker, "queue", AT_ONCE)) == []


def test_a_worker_whose_lease_is_over_claims_none_of_several() -> None:
    drive.submitted()
    drive.submitted()
    worker = drive.worker()
    drive.crash(worker)
    assert script.run(claim_some(worker, "queue", AT_ONCE)) == []


class Lane:
    """A lane's worker in a thread of its own, whose jobs end as soon as they are claimed."""

    def __init__(self, url: str) -> None:
        self.worker_id = drive.worker()
        self.limits: list[int] = []
        self.claimed: list[UUID] = []
        self._loop = asyncio.new_event_loop()
        self.worker = LaneWorker("queue", SLOTS, connect(url), self._take, self._loop)

    async def _take(self, lane: str, limit: int, release: Callable[[], None]) -> int:
        def claim_and_end() -> int:
            try:
                claims = script.run(claim_some(self.worker_id, lane, limit))
                for claim in claims:
                    assert drive.end(claim, Succeeded())
            finally:
                connection.close()
            self.limits.append(limit)
            self.claimed += [claim.job_id for claim in claims]
            for _ in claims:
                release()
            return len(claims)

        return await asyncio.to_thread(claim_and_end)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._loop.run_forever), threading.Thread(target=self.worker.run)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.worker.stop()
            threads[1].join(10)
            self._loop.call_soon_threadsafe(self._loop.stop)
            threads[0].join(10)
            self._loop.close()
            self.worker.connection.close()

    def free_slots(self) -> int:
        """Take every free slot there is, and count them."""
        return sum(1 for _ in iter(lambda: self.worker._free.acquire(blocking=False), False))


def until(seen: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.005)


@pytest.fixture
def lane() -> Lane:
    return Lane(settings.REDIS_URL)


def test_a_lane_that_is_behind_claims_several_at_once_and_loses_no_slot(lane: Lane, valkey: redis.Redis) -> None:
    submitted = {drive.submitted() for _ in range(60)}
    assert valkey.llen("rq:queue:queue") == 60
    with lane.at_work():
        until(lambda: len(lane.claimed) == 60)
        until(lambda: lane.limits[-1] == 1)  # back to one by one
    assert set(lane.claimed) == submitted
    assert len(lane.claimed) == 60, "no job was claimed twice"
    assert max(lane.limits) == AT_ONCE
    assert lane.free_slots() == SLOTS


def test_claims_of_several_jobs_take_their_messages_along(lane: Lane, valkey: redis.Redis) -> None:
    for _ in range(60):
        drive.submitted()
    with lane.at_work():
        until(lambda: len(lane.claimed) == 60)
        until(lambda: valkey.llen("rq:queue:queue") == 0)
        until(lambda: not list(valkey.scan_iter("rq:job:*")))
    assert len(lane.limits) < 60


def test_a_lane_that_is_hardly_used_claims_one_by_one(lane: Lane) -> None:
    with lane.at_work():
        for _ in range(3):
            job_id = drive.submitted()
            until(functools.partial(lane.claimed.__contains__, job_id))
            until(lambda: lane.worker._at_once <= 2)
    assert set(lane.limits) <= {1, 2}


def test_work_goes_on_without_messages_after_a_flush(lane: Lane, valkey: redis.Redis) -> None:
    for _ in range(20):
        drive.submitted()
    valkey.flushdb()
    with lane.at_work():
        until(lambda: len(lane.claimed) == 20)


def test_a_suspended_lane_claims_nothing_until_it_is_resumed(lane: Lane, valkey: redis.Redis) -> None:
    suspend(valkey)
    job_id = drive.submitted()
    with lane.at_work():
        first = lane.worker._asked_at
        until(lambda: lane.worker._asked_at > first)
        second = lane.worker._asked_at
        until(lambda: lane.worker._asked_at > second)  # it has looked at its suspension twice, a second apart
        assert lane.limits == []
        assert drive.state(job_id) == "queued"
        resume(valkey)
        until(lambda: lane.claimed == [job_id])
    assert JobEvent.objects.filter(job_id=job_id, reason="claimed").count() == 1
    assert Job.objects.get(pk=job_id).state == "succeeded"
