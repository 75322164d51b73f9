"""PostgreSQL and Valkey killed, flushed, stopped and started again under real processes: nothing is lost or charged."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis
from django.conf import settings
from django.db import OperationalError, connection, transaction
from pytest_django import DjangoDbBlocker

from astra_site.embedded import Servers
from astra_site.embedded.server import Server
from audit.trail import SYSTEM
from jobs import lease
from jobs.actions import Cancel
from jobs.models import Job, JobEvent, Worker
from tests.support.history import Tracked, track
from tests.support.processes import Process, Processes, eventually, moved_to, reconnect


@pytest.fixture(scope="module")
def own_servers(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Servers]:
    """A PostgreSQL and a Valkey that no other test uses."""
    with django_db_blocker.unblock(), moved_to(tmp_path_factory.mktemp("servers")) as servers:
        yield servers


@pytest.fixture
def transactional_db() -> None:
    """Empty nothing after a test: the module's tests share the database."""


@pytest.fixture(scope="module")
def fleet(own_servers: Servers) -> Iterator[dict[str, Process]]:
    """A scheduler and a worker that live through all of it."""
    with Processes() as processes:
        yield {"scheduler": processes.scheduler(), "worker": processes.ready_worker("queue:4", "tools:8", "suspect:1")}


@pytest.fixture(autouse=True)
def _nobody_crashed(fleet: dict[str, Process]) -> Iterator[None]:
    """See after each test that the same two processes live, and that the worker kept its lease and its jobs."""
    reconnect()  # a test that failed may have left a broken connection
    yield
    assert [name for name, process in fleet.items() if not process.is_alive] == []
    assert Worker.objects.filter(pid=fleet["worker"].pid).count() == 1
    assert not JobEvent.objects.filter(reason__in=["lease-lost", "worker-died", "worker-stopped"]).exists()


@pytest.fixture
def own_valkey(own_servers: Servers) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        yield client


def _server(servers: Servers, name: str) -> Server:
    return next(server for server in servers.servers if server.name == name)


def _signal(server: Server, number: signal.Signals) -> None:
    pid = server.read_pid()
    assert pid is not None
    os.kill(pid, number)


def _slow(folder: Path, lane: str, count: int) -> list[Tracked]:
    return [track("slow", folder / "log", lane=lane, payload={"until": str(folder / "gate")}) for _ in range(count)]


def _began(jobs: list[Tracked]) -> None:
    for job in jobs:
        eventually(job.has_written("began"), within_s=15)


def _ended_well(jobs: list[Tracked]) -> None:
    """See that all succeed, that each ran once, and that nothing was charged."""
    for job in jobs:
        eventually(job.is_in("succeeded", "dead"), within_s=30)
        row = job.row()
        assert (row.state, row.attempt, row.crashes) == ("succeeded", 0, 0)
        assert job.words() in (["began", "ended"], ["ran"])


def test_a_flush_of_valkey_loses_neither_queued_nor_running_jobs(
    fleet: dict[str, Process], own_valkey: redis.Redis, tmp_path: Path
) -> None:
    running = _slow(tmp_path, "queue", 4) + _slow(tmp_path, "suspect", 1)
    _began(running)
    queued = [track("note", tmp_path / "log", lane=lane) for lane in ("queue", "suspect") for _ in range(5)]
    own_valkey.flushall()
    (tmp_path / "gate").touch()
    _ended_well(running + queued)


def test_a_backend_of_postgresql_that_is_killed_takes_all_sessions_along_and_no_job(
    fleet: dict[str, Process], own_servers: Servers, tmp_path: Path
) -> None:
    running = _slow(tmp_path, "queue", 3) + _slow(tmp_path, "suspect", 1)
    _began(running)
    with transaction.atomic():
        short = [track("note", tmp_path / "log", lane="tools") for _ in range(100)]
    with connection.cursor() as cursor:
        cursor.execute("SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND state = 'idle'")
        backends = [pid for (pid,) in cursor.fetchall()]
    os.kill(backends[0], signal.SIGKILL)  # PostgreSQL then ends all others and recovers, as after a crash

    eventually(lambda: _is_back(backends), within_s=20)
    (tmp_path / "gate").touch()
    _ended_well(running + short)


def _is_back(before: list[int]) -> bool:
    """Tell whether PostgreSQL has ended the sessions of before; until then it takes new ones only to end them too."""
    reconnect()
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_stat_activity WHERE pid = ANY(%s)", [before])
            return cursor.fetchone() is None
    except OperationalError:
        return False


def test_without_valkey_every_lane_goes_on_and_with_it_again_messages_work(
    fleet: dict[str, Process], own_servers: Servers, own_valkey: redis.Redis, tmp_path: Path
) -> None:
    valkey = _server(own_servers, "valkey")
    running = _slow(tmp_path, "queue", 2)
    _began(running)
    _signal(valkey, signal.SIGKILL)
    eventually(lambda: not valkey.is_alive(), within_s=10)

    lanes = ("queue", "tools", "suspect")
    _ended_well([track("note", tmp_path / "log", lane=lane) for lane in lanes for _ in range(3)])
    Cancel(SYSTEM).run(running[0].id)
    eventually(running[0].is_in("cancelled"), within_s=10)
    assert own_servers.revive() == ["valkey"]
    (tmp_path / "gate").touch()
    _ended_well(running[1:])

    # Each lane waits for messages again.
    eventually(lambda: own_valkey.client_list() and _waiting_for_messages(own_valkey) >= 3, within_s=15)
    _ended_well([track("note", tmp_path / "log", lane=lane) for lane in lanes])


def _waiting_for_messages(valkey: redis.Redis) -> int:
    return sum(client["cmd"] == "blmove" for client in valkey.client_list())


def test_a_valkey_that_hangs_holds_up_neither_workers_nor_whoever_submits(
    fleet: dict[str, Process], own_servers: Servers, tmp_path: Path
) -> None:
    valkey = _server(own_servers, "valkey")
    _signal(valkey, signal.SIGSTOP)
    try:
        began = time.monotonic()
        jobs = [track("note", tmp_path / "log", lane="tools") for _ in range(20)]
        assert time.monotonic() - began < 8
        _ended_well(jobs)
    finally:
        _signal(valkey, signal.SIGCONT)


def _kill(server: Server) -> None:
    _signal(server, signal.SIGKILL)


def _restart(server: Server) -> None:
    _signal(server, signal.SIGINT)


@pytest.mark.parametrize(
    ("how", "away_s"), [(_kill, 0.0), (_restart, 0.0), (_kill, lease.LEASE_S + 2)], ids=["kill", "restart", "long"]
)
def test_an_outage_of_postgresql_under_load_charges_nobody_and_no_job_runs_twice(
    how: Callable[[Server], None], away_s: float, fleet: dict[str, Process], own_servers: Servers, tmp_path: Path
) -> None:
    running = _slow(tmp_path, "queue", 3) + _slow(tmp_path, "suspect", 1)
    _began(running)
    gate = tmp_path / "gate"
    stepping = track("steps", tmp_path / "log", payload={"steps": 3, "gate": 2, "until": str(gate)})
    eventually(stepping.has_written("step-2"), within_s=10)
    with transaction.atomic():
        short = [track("note", tmp_path / "log", lane="tools") for _ in range(400)]
    done = Job.objects.filter(id__in=[job.id for job in short], state="succeeded")
    assert 50 <= eventually(lambda: done.count() >= 50 and done.count(), within_s=30) < len(short)
    postgres = _server(own_servers, "postgres")
    how(postgres)
    eventually(lambda: not postgres.is_alive(), within_s=20)
    back_at = time.monotonic() + away_s
    eventually(lambda: time.monotonic() >= back_at, within_s=away_s + 1)
    # The scheduler is back before the worker is, and must not take that for a death.
    fleet["worker"].stop()
    try:
        assert own_servers.revive() == ["postgres"]
        reconnect()
        due = track("note", tmp_path / "log", lane="tools", run_at=datetime.now(UTC))
        eventually(due.is_in("queued"), within_s=10)
    finally:
        fleet["worker"].go_on()

    _ended_well([due])
    gate.touch()
    _ended_well(running + short)
    eventually(stepping.is_in("succeeded"), within_s=10)
    assert (stepping.recorded(), stepping.words()) == ([1, 2, 3], ["step-1", "step-2", "step-3"])
