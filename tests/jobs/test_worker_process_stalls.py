"""A worker that stands still past its lease: others take over, and nothing that it writes later changes anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.models import Worker
from tests.support.history import Tracked, track
from tests.support.processes import Process, Processes, database_for_a_module, eventually, wait_until_ready

_module_database, transactional_db, _database = database_for_a_module()


@pytest.fixture
def processes() -> Iterator[Processes]:
    with Processes() as started:
        yield started


def _has_lost_its_lease(worker: Process) -> bool:
    return Worker.objects.filter(pid=worker.pid, end="lost").exists()


def _works_again(worker: Process, folder: Path) -> None:
    """See that the worker registers anew and takes another job, of the lane that it alone serves."""
    eventually(lambda: Worker.objects.alive().filter(pid=worker.pid).exists(), within_s=10)
    job = track("note", folder / "again", lane="tools")
    eventually(job.is_in("succeeded"), within_s=10)
    assert {line.pid for line in job.lines()} == {worker.pid}
    assert worker.is_alive


def _taken_over(job: Tracked) -> None:
    """See that the second owner's story is the only one since the lease was lost."""
    assert job.changes() == ["submitted", "claimed", "lease-lost", "claimed", "finished"]
    events = job.events()
    lost = next(index for index, event in enumerate(events) if event.reason == "lease-lost")
    assert {event.fence for event in events[lost + 1 :]} == {2}
    row = job.row()
    assert (row.state, row.attempt, row.crashes) == ("succeeded", 0, 0)


def test_what_a_stopped_worker_writes_after_its_lease_changes_nothing(processes: Processes, tmp_path: Path) -> None:
    processes.scheduler()
    stopped = processes.worker("tools:4")
    other = processes.worker("suspect:2")
    wait_until_ready(stopped, other)
    gate = tmp_path / "gate"
    stale = track("stale", tmp_path / "log", lane="tools", payload={"until": str(gate)})
    eventually(stale.has_written("began"), within_s=10)
    # This one stops the whole process, while it holds the lock on its job's row.
    frozen = track("freeze", tmp_path / "log", lane="tools")
    eventually(frozen.has_written("frozen"), within_s=10)

    eventually(stale.is_in("succeeded"), within_s=20)
    eventually(frozen.is_in("succeeded"), within_s=20)
    assert _has_lost_its_lease(stopped)
    gate.touch()
    stopped.go_on()
    eventually(stale.has_written("parked-refused"), within_s=10)
    eventually(frozen.has_written("refused"), within_s=10)

    assert not [word for job in (stale, frozen) for word in job.words() if word.endswith("-written")]
    assert stale.words() == [
        *("began", "took-over", "step-refused", "progress-refused"),
        *(f"{outcome}-refused" for outcome in ("succeeded", "failed", "handedback", "cancelled", "blocked", "parked")),
    ]
    assert frozen.words() == ["frozen", "recorded", "thawed", "refused"]
    _works_again(stopped, tmp_path)
    _taken_over(stale)
    _taken_over(frozen)
    assert stale.row().progress == {"by": 2}
    assert (stale.recorded(), frozen.recorded()) == ([], [1])


def test_a_worker_whose_event_loop_is_blocked_past_its_lease_is_fenced_off(
    processes: Processes, tmp_path: Path
) -> None:
    processes.scheduler()
    blocked = processes.worker("tools:4")
    other = processes.worker("suspect:1")
    wait_until_ready(blocked, other)
    gate = tmp_path / "gate"
    job = track("stall", tmp_path / "log", lane="tools", payload={"until": str(gate)})
    eventually(job.has_written("stalled"), within_s=10)

    eventually(job.is_in("succeeded"), within_s=20)
    assert _has_lost_its_lease(blocked)
    gate.touch()
    eventually(job.has_written("woke"), within_s=10)
    _works_again(blocked, tmp_path)
    _taken_over(job)
    assert job.words() == ["stalled", "recorded", "woke"]
    assert job.recorded() == [1]
