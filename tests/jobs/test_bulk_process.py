"""Schedulers that are killed in the middle of an operation: it goes on, and every count is exact. Real processes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
from django.db.models import F

from audit.models import AuditEntry
from jobs.bulk import Stop
from jobs.models import BulkOperation, Job, JobEvent
from tests.jobs.bulks import counts, dead_letters, now, operator, started
from tests.support.processes import Processes, eventually

COUNT = 1_500


@pytest.fixture
def processes() -> Iterator[Processes]:
    with Processes() as started:
        yield started


def _changed(operation: BulkOperation, least: int) -> bool:
    row = now(operation)
    return row.changed + row.refused >= least


def test_an_operation_outlives_the_schedulers_that_are_killed_under_it(processes: Processes) -> None:
    dead_letters(COUNT)
    made = started()
    for least in (50, 400):
        scheduler = processes.scheduler()
        eventually(partial(_changed, made, least), within_s=40)
        scheduler.kill()
    assert not now(made).has_ended, "the kill came too late to hit anything"
    processes.scheduler()
    eventually(lambda: now(made).has_ended, within_s=60)
    assert counts(made) == ("finished", COUNT, 0, {})
    _each_was_redriven_once()


def test_two_operators_and_two_schedulers_one_of_them_killed(processes: Processes) -> None:
    dead_letters(COUNT)
    first, second = started(by="alice"), started(by="bob")
    victim, _ = processes.scheduler(), processes.scheduler()
    eventually(lambda: _changed(first, 100) and _changed(second, 100), within_s=40)
    victim.kill()
    assert not (now(first).has_ended and now(second).has_ended)
    eventually(lambda: now(first).has_ended and now(second).has_ended, within_s=60)
    rows = BulkOperation.objects.all()
    assert {row.state for row in rows} == {"finished"}
    assert [row.changed + row.refused for row in rows] == [COUNT, COUNT]
    assert sum(row.changed for row in rows) == COUNT
    assert set(now(first).refusals) <= {"already redriven by bob"}
    assert set(now(second).refusals) <= {"already redriven by alice"}
    _each_was_redriven_once()


def test_a_scheduler_that_is_asked_to_end_gives_the_operation_back_at_once(processes: Processes) -> None:
    dead_letters(COUNT)
    made = started()
    scheduler = processes.scheduler()
    eventually(lambda: _changed(made, 20), within_s=40)
    scheduler.terminate()
    assert scheduler.ends_within(10) == 0
    row = now(made)
    assert (row.state, row.taken_by) == ("running", None)
    assert row.changed < COUNT
    Stop(operator()).run(made.pk)
    assert Job.objects.filter(state="queued").count() == now(made).changed


def test_a_scheduler_that_stands_still_in_the_middle_holds_nobody_up_for_long(processes: Processes) -> None:
    dead_letters(COUNT)
    made = started()
    frozen = processes.scheduler()
    eventually(lambda: _changed(made, 20), within_s=40)
    frozen.stop()
    processes.scheduler()
    eventually(lambda: now(made).has_ended, within_s=60)
    frozen.go_on()
    assert counts(made) == ("finished", COUNT, 0, {})
    _each_was_redriven_once()


def _each_was_redriven_once() -> None:
    assert not Job.objects.exclude(generation=2).exists()
    assert JobEvent.objects.filter(reason="redriven").count() == COUNT
    assert JobEvent.objects.filter(reason="redriven").values("job").distinct().count() == COUNT
    assert AuditEntry.objects.filter(action="job.redrive").count() == COUNT
    assert not BulkOperation.objects.filter(changed__gt=F("expected")).exists()
