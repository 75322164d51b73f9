"""Thousands of short jobs: with workers killed in between nothing is lost or done twice, and nothing piles up."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import redis
from django.db import transaction

from jobs.models import Job, JobEvent
from jobs.submit import Submission, submit
from tests.support.processes import Processes, database_for_a_module, eventually, wait_until_ready

logger = logging.getLogger(__name__)


_module_database, transactional_db, _database = database_for_a_module()


@pytest.fixture
def processes() -> Iterator[Processes]:
    with Processes() as started:
        yield started


def _submit(handler: str, count: int, file: Path) -> None:
    for begin in range(0, count, 500):
        with transaction.atomic():
            for _ in range(begin, min(begin + 500, count)):
                submit(Submission(handler, {"file": str(file)}, "queue"))


def _has_succeeded(handler: str, times: int) -> Callable[[], bool]:
    return lambda: Job.objects.filter(handler=handler, state="succeeded").count() >= times


def test_no_job_is_lost_or_counted_twice_while_workers_are_killed(processes: Processes, tmp_path: Path) -> None:
    count, kills, dice = 2000, 6, random.Random(20261120)
    schedulers = [processes.scheduler() for _ in range(2)]
    workers = [processes.worker("queue:6", "suspect:1") for _ in range(2)]
    wait_until_ready(*workers)
    _submit("test.tallied", count, tmp_path / "log")

    for kill in range(kills):
        # Far enough from the end that there is always work in flight.
        enough = count * (kill + 1) * 3 // (kills * 4)
        eventually(_has_succeeded("test.tallied", enough), within_s=60)
        workers.pop(dice.randrange(len(workers))).kill()
        workers.append(processes.worker("queue:6", "suspect:1"))
    schedulers[0].kill()
    eventually(_has_succeeded("test.tallied", count), within_s=90)

    jobs = Job.objects.filter(handler="test.tallied")
    assert set(jobs.values_list("attempt", "crashes", "state")) == {(0, 0, "succeeded")}
    for reason in ("submitted", "finished", "tallied"):
        found = JobEvent.objects.filter(job__handler="test.tallied", reason=reason).values_list("job_id", flat=True)
        assert len(found) == len(set(found)) == count
    claims = Counter(
        JobEvent.objects.filter(job__handler="test.tallied", reason="claimed").values_list("job_id", "fence")
    )
    assert set(claims.values()) == {1}
    # Otherwise no kill hit anything.
    assert jobs.filter(fence__gt=1).exists()


def test_neither_memory_nor_files_nor_messages_pile_up(
    processes: Processes, tmp_path: Path, valkey: redis.Redis
) -> None:
    worker = psutil.Process(processes.ready_worker("queue:16").pid)
    warm, count = 1000, 5000
    _submit("test.noop", warm, tmp_path)
    eventually(_has_succeeded("test.noop", warm), within_s=60)
    memory, files, threads = worker.memory_info().rss, worker.num_fds(), worker.num_threads()

    _submit("test.noop", count - warm, tmp_path)
    eventually(_has_succeeded("test.noop", count), within_s=120)
    grown = worker.memory_info().rss - memory
    logger.info("grown by %d kB over %d jobs", grown // 1024, count - warm)
    assert grown < 12_000_000
    assert worker.num_fds() - files <= 8  # as many connections as a pool may still open
    assert worker.num_threads() - threads <= 8
    eventually(lambda: not valkey.keys("rq:job:*"), within_s=10)
