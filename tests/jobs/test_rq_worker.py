from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import redis
from django.conf import settings
from rq.suspension import resume, suspend

from jobs import lane_worker, rq_worker, wakeups
from jobs.lane_worker import LaneWorker
from jobs.rq_worker import connect
from tests.jobs.drive import until


@pytest.fixture(autouse=True)
def _database() -> None:
    """No database here: what is claimed is the test's to say."""


class Lane:
    """A lane's worker, with jobs that the test hands out and ends."""

    def __init__(self, slots: int = 2, url: str = "") -> None:
        self.loop = asyncio.new_event_loop()
        self.worker = LaneWorker("queue", slots, connect(url or settings.REDIS_URL), self._take, self.loop)
        self.ready = 0
        self.running: list[Callable[[], None]] = []
        self.asked = 0
        self.most = 0
        self.trouble: Exception | None = None

    async def _take(self, lane: str, limit: int, release: Callable[[], None]) -> int:
        assert lane == "queue"
        self.asked += 1
        if self.trouble is not None:
            raise self.trouble
        count = min(limit, self.ready)
        self.ready -= count
        self.running += [release] * count
        self.most = max(self.most, len(self.running))
        return count

    def end_one(self) -> None:
        self.loop.call_soon_threadsafe(lambda: self.running.pop()())

    def free(self) -> int:
        """Count the free slots."""
        count = 0
        while self.worker._free.acquire(blocking=False):
            count += 1
        for _ in range(count):
            self.worker._free.release()
        return count

    @contextmanager
    def loop_at_work(self) -> Iterator[None]:
        thread = threading.Thread(target=self.loop.run_forever)
        thread.start()
        try:
            yield
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            thread.join(10)
            self.loop.close()
            self.worker.connection.close()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        with self.loop_at_work():
            thread = threading.Thread(target=self.worker.run)
            thread.start()
            try:
                yield
            finally:
                self.worker.stop()
                thread.join(10)
                assert not thread.is_alive()


@pytest.fixture
def lane() -> Iterator[Lane]:
    made = Lane()
    with made.loop_at_work():
        yield made


def _keys(valkey: redis.Redis) -> set[str]:
    return {key.decode() for key in valkey.keys("rq:*")}  # type: ignore[union-attr]


# --- Messages --------------------------------------------------------------------------------------------------------


def test_a_message_is_dropped_without_a_trace(lane: Lane, valkey: redis.Redis) -> None:
    wakeups.push(["queue"])
    found = lane.worker.next_message()
    assert found is not None
    message, queue = found
    assert valkey.lrange(queue.intermediate_queue_key, 0, -1) == [message.id.encode()]
    assert valkey.exists(message.key)
    lane.worker.execute_job(message, queue)
    assert lane.asked == 1
    assert _keys(valkey) <= {"rq:queues"}


def test_no_message_comes_of_an_empty_queue(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lane.worker.next_message() is None
    assert not lane.worker.is_away()


def test_messages_whose_taker_died_are_cleaned_up(lane: Lane, valkey: redis.Redis) -> None:
    wakeups.push(["queue"] * 3)
    for _ in range(2):
        assert lane.worker.next_message() is not None  # and then its process died
    lane.worker.run_maintenance_tasks()
    queue = lane.worker.queues[0]
    assert valkey.llen(queue.intermediate_queue_key) == 0
    assert (queue.count, len(valkey.keys("rq:job:*"))) == (1, 1)
    assert not valkey.exists("rq:failed:queue")


def test_cleaning_up_where_there_is_nothing_is_harmless(lane: Lane) -> None:
    lane.worker.run_maintenance_tasks()
    assert lane.worker.last_cleaned_at is not None


def test_a_worker_shows_up_in_rqs_list_and_comes_back_after_a_flush(lane: Lane, valkey: redis.Redis) -> None:
    lane.worker.heartbeat()
    assert valkey.exists(lane.worker.key)
    assert 0 < valkey.ttl(lane.worker.key) <= 90
    valkey.flushdb()
    lane.worker.heartbeat()
    assert not valkey.exists(lane.worker.key), "it asks every ten seconds"
    lane.worker._beat_at -= 10
    lane.worker.heartbeat()
    assert valkey.exists(lane.worker.key)
    lane.worker.teardown()
    assert not valkey.smembers("rq:workers")


def test_suspension_is_asked_for_once_a_second(lane: Lane, valkey: redis.Redis) -> None:
    assert not lane.worker.is_suspended()
    suspend(valkey)
    assert not lane.worker.is_suspended()
    lane.worker._asked_at -= 1
    assert lane.worker.is_suspended()
    resume(valkey)
    lane.worker._asked_at -= 1
    assert not lane.worker.is_suspended()


# --- Without Redis ---------------------------------------------------------------------------------------------------


@pytest.fixture
def alone() -> Iterator[Lane]:
    made = Lane(url="unix:///nowhere/redis.sock")
    with made.loop_at_work():
        yield made


def test_nothing_raises_without_redis(alone: Lane) -> None:
    worker = alone.worker
    assert worker.next_message() is None
    assert worker.is_away()
    assert worker.next_message() is None
    assert not worker.is_suspended()
    worker.heartbeat()
    worker.run_maintenance_tasks()
    worker.teardown()


def test_the_outage_is_logged_once_and_so_is_its_end(
    alone: Lane, valkey: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    worker = alone.worker
    for _ in range(3):
        worker.next_message()
        worker._away_until = time.monotonic()
    worker.connection = connect(settings.REDIS_URL)
    assert worker.next_message() is None
    told = [getattr(record, "action", "") for record in caplog.records]
    assert told.count("redis_outage") == 1
    assert told.count("redis_back") == 1
    assert not worker.is_away()
    worker.connection.close()


def test_idle_slots_look_for_themselves_while_redis_is_away() -> None:
    lane = Lane(slots=3, url="unix:///nowhere/redis.sock")
    lane.ready = 5
    with lane.at_work():
        until(lambda: len(lane.running) == 3)
        lane.end_one()
        lane.end_one()
        until(lambda: lane.ready == 0)
        for _ in range(3):
            lane.end_one()
        until(lambda: not lane.running)
    assert lane.most == 3


# --- Slots -----------------------------------------------------------------------------------------------------------


def test_no_more_jobs_run_than_there_are_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_worker, "LOOK_S", 0.05)
    lane = Lane(slots=3)
    lane.ready = 20
    with lane.at_work():
        wakeups.push(["queue"] * 20)
        while lane.ready or lane.running:
            until(lambda: lane.running or not lane.ready)
            if lane.running:
                lane.end_one()
                time.sleep(0)
    assert lane.most <= 3
    assert lane.free() == 3


def test_a_claim_that_fails_gives_its_slot_back(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    lane.worker._stopping.set()  # it does not wait a moment before it goes on
    lane.trouble = RuntimeError("no database")
    lane.worker._free.acquire()
    assert lane.worker._claim_into(1) == 0
    assert lane.free() == 2


def test_a_claim_that_finds_nothing_gives_its_slot_back(lane: Lane) -> None:
    lane.worker._free.acquire()
    assert lane.worker._claim_into(1) == 0
    assert lane.free() == 2


def test_a_slot_is_free_again_when_its_job_has_ended(lane: Lane) -> None:
    lane.ready = 1
    lane.worker._free.acquire()
    assert lane.worker._claim_into(1) == 1
    assert lane.free() == 1
    lane.end_one()
    until(lambda: lane.free() == 2)


def test_an_idle_lane_finds_work_without_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_worker, "LOOK_S", 0.05)
    lane = Lane()
    with lane.at_work():
        until(lambda: lane.asked >= 2)
        lane.ready = 1
        until(lambda: lane.running)
        lane.end_one()


def test_a_stopped_lane_takes_nothing_more() -> None:
    lane = Lane()
    with lane.at_work():
        until(lambda: lane.asked)
    asked = lane.asked
    lane.worker._stop_requested = True
    assert lane.worker.dequeue_job_and_maintain_ttl(None) is None
    assert lane.asked == asked


def test_a_loop_that_ends_by_itself_is_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    lane = Lane()
    lane.ready = 1
    work, ended = lane.worker.work, threading.Event()

    def fails_once(**options: object) -> bool:
        if not ended.is_set():
            ended.set()
            raise RuntimeError("nobody knows why")
        return bool(work(**options))  # type: ignore[arg-type]

    monkeypatch.setattr(lane.worker, "work", fails_once)
    monkeypatch.setattr(lane.worker._stopping, "wait", lambda timeout: ended.wait(0.01))
    with lane.at_work():
        until(lambda: lane.running)
        lane.end_one()
    assert ended.is_set()


def test_the_worker_says_nothing_of_jobs_to_rq(lane: Lane, valkey: redis.Redis) -> None:
    wakeups.push(["queue"])
    found = lane.worker.next_message()
    assert found is not None
    lane.worker.execute_job(*found)
    lane.worker.set_state("busy")
    assert not valkey.keys("rq:wip:*")
    assert not valkey.keys("rq:finished:*")


def test_a_connection_for_workers_gives_up_soon() -> None:
    client = connect(settings.REDIS_URL)
    options = client.connection_pool.connection_kwargs
    assert options["socket_timeout"] == rq_worker.PATIENCE_S
    assert options["socket_connect_timeout"] == 1
    client.close()
