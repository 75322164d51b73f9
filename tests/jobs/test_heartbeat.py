from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterator
from uuid import UUID, uuid4

import psycopg
import pytest

from audit.trail import SYSTEM
from jobs import heartbeat, lease, script
from jobs.actions import Cancel
from jobs.heartbeat import STALL_S, Heartbeat
from jobs.models import Worker
from jobs.pool import conninfo
from tests.jobs.drive import ask, job, pass_time, story, submitted, take, taken, until


class Process:
    """A heartbeat on a loop and with a clock that the test moves, and what it was told."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.now = 1000.0
        self.can: list[str] = ["agent:a@1"]
        self.stopped: list[UUID] = []
        self.lost: list[UUID] = []
        self.threads: set[threading.Thread] = set()
        self.heartbeat = Heartbeat(
            self.loop,
            {"queue": 4, "batch": 2},
            "1.0",
            capabilities=lambda: list(self.can),
            on_stop=self._told(self.stopped),
            on_lost=self._told(self.lost),
            clock=lambda: self.now,
        )

    def _told(self, what: list[UUID]) -> Callable[[UUID], None]:
        def tell(which: UUID) -> None:
            self.threads.add(threading.current_thread())
            what.append(which)

        return tell

    def run_loop(self) -> None:
        """Let the loop do what is waiting."""
        self.loop.run_until_complete(asyncio.sleep(0))

    @property
    def id(self) -> UUID:
        assert self.heartbeat.worker_id is not None
        return self.heartbeat.worker_id

    @property
    def row(self) -> Worker:
        return Worker.objects.get(pk=self.id)


@pytest.fixture
def process() -> Iterator[Process]:
    made = Process()
    yield made
    made.heartbeat.stop()
    made.loop.close()


def _lease_s(worker_id: UUID) -> float:
    """Return how long the lease still holds."""
    rows = ask("SELECT extract(epoch FROM lease_until - now()) AS s FROM jobs_worker WHERE id = %s", [worker_id])
    return float(rows[0]["s"])


def test_a_process_registers_with_what_it_offers(process: Process) -> None:
    process.heartbeat.register()
    row = process.row
    assert (row.hostname, row.pid, row.version) == (socket.gethostname(), os.getpid(), "1.0")
    assert (row.slots, sorted(row.lanes)) == ({"queue": 4, "batch": 2}, ["batch", "queue"])
    assert (row.end, row.ended_at) == ("", None)
    assert lease.LEASE_S - 1 < _lease_s(process.id) <= lease.LEASE_S


def test_a_beat_renews_the_lease(process: Process) -> None:
    process.heartbeat.register()
    pass_time(4)
    assert _lease_s(process.id) < lease.LEASE_S - 3
    assert process.heartbeat.beat()
    assert _lease_s(process.id) > lease.LEASE_S - 1
    assert process.row.seen_at > process.row.started_at


def test_a_loop_that_stands_still_lets_its_lease_run_out(process: Process, caplog: pytest.LogCaptureFixture) -> None:
    process.heartbeat.register()
    process.now += STALL_S + 0.1
    pass_time(4)
    assert not process.heartbeat.beat()
    assert not process.heartbeat.beat()
    assert _lease_s(process.id) < lease.LEASE_S - 3
    assert [record.message for record in caplog.records if "has not moved" in record.message] == [
        "the event loop has not moved for 4.1 s; the lease is not renewed"
    ]


def test_a_loop_that_moves_again_has_its_lease_renewed(process: Process) -> None:
    process.heartbeat.register()
    process.now += STALL_S + 0.1
    assert not process.heartbeat.beat()
    process.loop.call_soon(process.heartbeat._tick)
    process.run_loop()
    assert process.heartbeat.beat()


def test_a_loop_that_is_slow_but_moves_keeps_its_lease(process: Process) -> None:
    process.heartbeat.register()
    process.now += STALL_S - 0.1
    assert process.heartbeat.beat()


def test_who_was_declared_lost_is_told_and_begins_anew(process: Process) -> None:
    lost = process.heartbeat.register()
    script.run(lease.end(lost, "lost"))
    assert process.heartbeat.beat()
    assert process.id != lost
    assert process.row.ended_at is None
    assert not process.lost, "told on the loop, not from the thread"
    process.run_loop()
    assert process.lost == [lost]
    submitted()
    assert take(lost) is None
    assert taken(process.id).worker_id == process.id


def test_jobs_that_were_asked_to_stop_are_told_with_each_beat(process: Process) -> None:
    process.heartbeat.register()
    submitted()
    claimed = taken(process.id)
    process.heartbeat.beat()
    process.run_loop()
    assert process.stopped == []
    Cancel(SYSTEM).run(claimed.job_id)
    process.heartbeat.beat()
    process.heartbeat.beat()
    process.run_loop()
    assert process.stopped == [claimed.job_id] * 2
    assert process.threads == {threading.current_thread()}


def test_a_process_hears_nothing_of_other_processes_jobs(process: Process) -> None:
    process.heartbeat.register()
    submitted()
    other = Process()
    other.heartbeat.register()
    Cancel(SYSTEM).run(taken(other.id).job_id)
    process.heartbeat.beat()
    process.run_loop()
    assert process.stopped == []
    other.heartbeat.stop()
    other.loop.close()


def test_stopping_ends_the_lease_and_hands_back_what_is_left(process: Process) -> None:
    process.heartbeat.register()
    submitted()
    claimed = taken(process.id)
    process.heartbeat.stop()
    assert process.row.end == "stopped"
    row = job(claimed.job_id)
    assert (row.state, row.lane, row.crashes, row.attempt) == ("queued", "queue", 0, 0)
    assert story(claimed.job_id)[-1] == ("running", "queued", "worker-stopped")


def test_stopping_without_a_database_only_says_so(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    process.heartbeat.register()
    assert process.heartbeat._connection is not None
    process.heartbeat._connection.close()
    with monkeypatch.context() as patch:
        patch.setattr(heartbeat, "conninfo", lambda **session: "host=/nowhere connect_timeout=1")
        process.heartbeat.stop()
    assert process.row.ended_at is None, "its lease will run out"


def _kill(process: Process) -> None:
    """Break the heartbeat's connection from the server's side."""
    assert process.heartbeat._connection is not None
    pid = process.heartbeat._connection.info.backend_pid
    with psycopg.connect(conninfo(), autocommit=True) as own:
        own.execute("SELECT pg_terminate_backend(%s)", [pid])


def test_after_an_outage_it_beats_on_a_new_connection(process: Process) -> None:
    process.heartbeat.register()
    _kill(process)
    with pytest.raises(psycopg.OperationalError):
        process.heartbeat.beat()
    pass_time(4)
    assert process.heartbeat.beat()
    assert _lease_s(process.id) > lease.LEASE_S - 1


def test_a_failed_new_beginning_is_tried_again(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost, and the database goes away before the new lease is written."""
    lost = process.heartbeat.register()
    script.run(lease.end(lost, "lost"))
    with monkeypatch.context() as patch:
        patch.setattr(process.heartbeat, "register", _no_database)
        with pytest.raises(psycopg.OperationalError):
            process.heartbeat.beat()
    assert process.heartbeat.beat()
    assert process.id != lost
    assert process.row.ended_at is None


def _no_database() -> UUID:
    raise psycopg.OperationalError("no server")


# --- The threads -----------------------------------------------------------------------------------------------------


@pytest.fixture
def at_work(process: Process, monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    """The process with its threads and its loop running, and everything a hundred times faster."""
    monkeypatch.setattr(lease, "RENEW_S", 0.02)
    monkeypatch.setattr(heartbeat, "RETRY_S", 0.01)
    process.heartbeat.start()
    thread = threading.Thread(target=process.loop.run_forever)
    thread.start()
    yield process
    process.heartbeat.stop()
    process.loop.call_soon_threadsafe(process.loop.stop)
    thread.join(10)


def test_a_running_process_keeps_its_lease(at_work: Process) -> None:
    pass_time(5)
    until(lambda: _lease_s(at_work.id) > lease.LEASE_S - 1)
    assert at_work.row.capabilities == ["agent:a@1"]


def test_what_a_process_has_loaded_is_told_anew_when_it_changes(at_work: Process) -> None:
    at_work.can.append("agent:b@1")
    until(lambda: at_work.row.capabilities == ["agent:a@1", "agent:b@1"])
    at_work.can.clear()
    until(lambda: at_work.row.capabilities == [])


def test_trouble_with_what_is_loaded_does_not_stop_the_beat(at_work: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    def trouble() -> list[str]:
        raise RuntimeError("astra.yml is half written")

    monkeypatch.setattr(at_work.heartbeat, "_capabilities", trouble)
    pass_time(5)
    until(lambda: _lease_s(at_work.id) > lease.LEASE_S - 1)
    assert at_work.row.capabilities == ["agent:a@1"]


def test_an_outage_does_not_end_the_thread(at_work: Process) -> None:
    for _ in range(3):
        _kill(at_work)
        pass_time(5)
        until(lambda: _lease_s(at_work.id) > lease.LEASE_S - 1)
    assert at_work.row.ended_at is None


def test_trouble_of_any_kind_does_not_end_the_thread(at_work: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()

    def trouble(worker_id: UUID) -> None:
        asked.set()
        raise RuntimeError("no")

    with monkeypatch.context() as patch:
        patch.setattr(lease, "renew", trouble)
        assert asked.wait(10)
    pass_time(5)
    until(lambda: _lease_s(at_work.id) > lease.LEASE_S - 1)


def test_the_thread_tells_the_loop_what_to_stop_and_what_is_lost(at_work: Process) -> None:
    submitted()
    claimed = taken(at_work.id)
    Cancel(SYSTEM).run(claimed.job_id)
    until(lambda: claimed.job_id in at_work.stopped)
    lost = at_work.id
    script.run(lease.end(lost, "lost"))
    until(lambda: at_work.lost == [lost])
    until(lambda: at_work.id != lost)
    assert len(at_work.threads) == 1
    assert threading.current_thread() not in at_work.threads


def test_a_worker_that_nobody_knows_cannot_be_renewed() -> None:
    assert script.run(lease.renew(uuid4())) is None
