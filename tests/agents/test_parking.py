"""A parked run in the database: it holds no worker, and goes on when what it waits for has come."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.db.models import F

from agents.invoke import invoke
from agents.models import Run
from audit.trail import SYSTEM
from jobs import script
from jobs.actions import Cancel, Redrive
from jobs.handlers import Parked, Succeeded
from jobs.models import Job, JobEvent, Wait
from jobs.reconcile import Reconciler
from jobs.waits import resolve
from tests.jobs.drive import pass_time
from tests.support.approvals import carry_on
from tests.support.configs import loaded
from tests.support.people import person

pytestmark = pytest.mark.django_db(transaction=True)

_config = loaded("""
programs: [tests.support.programs]
agents:
  patient: {version: 1, instructions: Wait., model: demo, program: test-patiently}
endpoints:
  wait.v1: {agent: patient, mode: async-queue, input: {type: object}}
""")


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes"


@pytest.fixture
def parked(notes: Path) -> UUID:
    """A run that has come to its waits."""
    run_id = invoke("wait.v1", {"file": str(notes)}, user=person("user"), actor=SYSTEM).run_id
    assert isinstance(carry_on(), Parked)
    return run_id


def job(run_id: UUID) -> Job:
    return Job.objects.get(pk=run_id)


def words(notes: Path) -> list[str]:
    return [line.split()[0] for line in notes.read_text().splitlines()]


def resolved(run_id: UUID, data: Any) -> bool:
    return script.run(resolve(run_id, "1.1/paid#1", data))


def test_a_parked_run_holds_no_worker_and_says_what_it_waits_for(parked: UUID, notes: Path) -> None:
    found = job(parked)
    assert (found.state, found.worker_id, found.attempt) == ("waiting", None, 0)
    waits = {wait.key: wait for wait in Wait.objects.filter(job=found)}
    assert {key: wait.kind for key, wait in waits.items()} == {"1.0/sleep#1": "time", "1.1/paid#1": "event"}
    assert words(notes) == ["before"]


def test_it_goes_on_once_both_have_come_and_nothing_runs_twice(parked: UUID, notes: Path) -> None:
    assert resolved(parked, {"amount": 3})
    assert not resolved(parked, {"amount": 4}), "the first one counts"
    Reconciler().tick()
    assert job(parked).state == "waiting"
    pass_time(3601)
    Run.objects.update(created_at=F("created_at") - timedelta(seconds=3601))
    JobEvent.objects.update(at=F("at") - timedelta(seconds=3601))
    Reconciler().tick()
    assert job(parked).state == "queued"
    outcome = carry_on()
    assert isinstance(outcome, Succeeded)
    assert outcome.result == {"paid": {"amount": 3}, "age_over_an_hour": False}
    assert words(notes) == ["before", "after"]
    kinds = Run.objects.get(pk=parked).steps.values_list("key", "kind")
    assert ("1.0/sleep#1", "wait") in kinds
    assert ("1.1/paid#1", "wait") in kinds


def test_an_event_that_does_not_come_in_time_is_none(parked: UUID) -> None:
    pass_time(7201)
    Reconciler().tick()
    outcome = carry_on()
    assert isinstance(outcome, Succeeded)
    assert outcome.result["paid"] is None


def test_a_run_that_is_redriven_while_one_of_its_waits_is_over_waits_for_the_other_alone(parked: UUID) -> None:
    until = Wait.objects.get(job=parked, kind="time").until
    resolved(parked, {"amount": 3})
    Cancel(SYSTEM).run(parked)
    Redrive(SYSTEM).run(parked)
    assert isinstance(carry_on(), Parked)
    assert job(parked).state == "waiting"
    (left,) = Wait.objects.filter(job=parked, resolved_at=None)
    assert (left.kind, left.until) == ("time", until), "its time is counted from the first time it came here"


def test_a_redrive_from_the_start_asks_anew(parked: UUID, notes: Path) -> None:
    resolved(parked, {"amount": 3})
    Cancel(SYSTEM).run(parked)
    Redrive(SYSTEM, from_="start").run(parked)
    assert isinstance(carry_on(), Parked)
    assert Wait.objects.filter(job=parked, resolved_at=None).count() == 2
    assert words(notes) == ["before", "before"]
