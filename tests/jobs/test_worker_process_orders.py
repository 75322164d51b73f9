"""What a worker process does when it is told something: cancel, take too long, stop, another version."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit.trail import SYSTEM
from jobs.actions import Cancel, Redrive
from jobs.models import Worker
from tests.support.apps import CAPABILITIES
from tests.support.history import Tracked, track
from tests.support.processes import Process, Processes, database_for_a_module, eventually

logger = logging.getLogger(__name__)


_module_database, transactional_db, _database = database_for_a_module()


@pytest.fixture(scope="module")
def worker(_module_database: None) -> Iterator[Process]:
    """One worker on lane `queue`, and a scheduler."""
    with Processes() as processes:
        processes.scheduler()
        yield processes.ready_worker("queue:4")


@pytest.fixture
def processes(worker: Process) -> Iterator[Processes]:
    with Processes() as started:
        yield started


def _running(folder: Path, lane: str = "queue") -> Tracked:
    job = track("slow", folder / "log", lane=lane, payload={"until": str(folder / "gate")})
    eventually(job.has_written("began"), within_s=10)
    return job


def _cancel(job: Tracked, worker: Process) -> float:
    """Cancel a running job just after its worker's heartbeat; return the seconds until its call was cut off."""
    seen_at = Worker.objects.get(pid=worker.pid).seen_at
    eventually(lambda: Worker.objects.get(pid=worker.pid).seen_at > seen_at, within_s=10)
    began = time.monotonic()
    Cancel(SYSTEM).run(job.id)
    eventually(job.has_written("cut-off"), within_s=10)
    seconds = time.monotonic() - began
    logger.info("cut off %.2f s after the cancel", seconds)
    eventually(job.is_in("cancelled"), within_s=10)
    return seconds


def test_a_cancel_reaches_the_running_call_before_the_next_heartbeat(worker: Process, tmp_path: Path) -> None:
    job = _running(tmp_path)
    assert _cancel(job, worker) < 1.5
    assert job.changes() == ["submitted", "claimed", "cancel-requested", "cancelled"]


def test_without_valkey_jobs_run_and_a_cancel_comes_with_the_heartbeat(processes: Processes, tmp_path: Path) -> None:
    nowhere = {"REDIS_URL": f"unix://{tmp_path}/nothing.sock?db=0"}
    worker = processes.ready_worker("tools:2", environment=nowhere)
    job = _running(tmp_path, lane="tools")
    assert _cancel(job, worker) < 4


def test_the_wall_clock_stops_a_run_and_what_it_finished_is_kept(worker: Process, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job = track("steps", tmp_path / "log", payload={"steps": 3, "gate": 3, "until": str(gate)}, time_limit_s=1)
    eventually(job.is_in("dead"), within_s=10)
    error = job.row().error
    assert error is not None
    assert error["type"] == "/problems/wall-clock"
    assert job.recorded() == [1, 2]

    gate.touch()
    Redrive(SYSTEM).run(job.id)
    eventually(job.is_in("succeeded"), within_s=10)
    assert job.recorded() == [1, 2, 3]
    assert job.words() == ["step-1", "step-2", "step-3", "step-3"]


def test_a_result_that_cannot_be_stored_is_a_failure_and_not_an_endless_run(worker: Process, tmp_path: Path) -> None:
    job = track("refused", tmp_path / "log", max_attempts=1)
    eventually(job.is_in("dead"), within_s=10)
    assert job.words() == ["ran"]
    error = job.row().error
    assert error is not None
    assert "UntranslatableCharacter" in error["detail"]


def test_sigterm_lets_short_runs_finish_hands_back_long_ones_and_leaves_no_process(
    processes: Processes, tmp_path: Path
) -> None:
    stopping = processes.ready_worker("tools:4", "suspect:1", grace=2)
    short = _running(tmp_path, lane="tools")
    long = track(
        "steps", tmp_path / "log", lane="tools", payload={"steps": 2, "gate": 2, "until": str(tmp_path / "later")}
    )
    suspect = track("slow", tmp_path / "log", lane="suspect", payload={"until": str(tmp_path / "later")})
    eventually(long.has_written("step-2"), within_s=10)
    eventually(suspect.has_written("began"), within_s=10)

    stopping.terminate()
    (tmp_path / "gate").touch()
    assert stopping.ends_within(10) == 0
    assert stopping.others() == []
    assert short.row().state == "succeeded"
    assert short.words() == ["began", "ended"]
    for job, lane in ((long, "tools"), (suspect, "suspect")):
        row = job.row()
        assert (row.state, row.lane, row.attempt, row.crashes) == ("queued", lane, 0, 0)
        assert job.changes() == ["submitted", "claimed", "handed-back"]
    assert Worker.objects.get(pid=stopping.pid).end == "stopped"

    (tmp_path / "later").touch()
    processes.worker("tools:4", "suspect:1")
    eventually(long.is_in("succeeded"), within_s=15)
    eventually(suspect.is_in("succeeded"), within_s=15)
    assert long.words() == ["step-1", "step-2", "step-2"]


def test_a_worker_claims_only_what_it_has_loaded(processes: Processes, tmp_path: Path) -> None:
    first = processes.ready_worker("tools:2", environment={CAPABILITIES: "agent:a@1"})
    newer = track("note", tmp_path / "log", lane="tools", requires="agent:a@2")
    older = track("note", tmp_path / "log", lane="tools", requires="agent:a@1")
    eventually(older.is_in("succeeded"), within_s=10)
    assert {line.pid for line in older.lines()} == {first.pid}
    eventually(newer.is_in("blocked"), within_s=10)
    assert newer.row().blocked_on == ["no-worker:agent:a@2"]

    second = processes.ready_worker("tools:2", environment={CAPABILITIES: "agent:a@1 agent:a@2"})
    eventually(newer.is_in("succeeded"), within_s=10)
    assert {line.pid for line in newer.lines()} == {second.pid}
