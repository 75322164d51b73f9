"""What people say of agents' work: kept once each, and heeded by the runs that come after."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db.models import F

from agents import handler
from agents.feedback import MAX_NOTES, AddNote, Grade, NoFeedback, RetireNote, with_notes
from agents.models import AgentNote, Feedback, Run
from audit.models import AuditEntry
from audit.trail import Actor
from jobs import script
from jobs.claim import claim
from tests.jobs.drive import worker
from tests.support.configs import loaded
from tests.support.people import person
from tests.support.tasks import task

pytestmark = pytest.mark.django_db

_config = loaded()


def as_(name: str, *roles: str) -> Actor:
    return Actor(user=person(name, *roles))


def heeded(run: Run) -> list[str]:
    """Return the notes that a run reads."""
    found = script.run(claim(worker(can=["agent:helper@1"]), "queue"))
    assert found is not None
    assert found.job_id == run.pk
    row: Any = script.run(handler._read(found))
    notes: list[str] = row["notes"]
    return notes


def older(note: AgentNote, seconds: float = 60) -> None:
    AgentNote.objects.filter(pk=note.pk).update(created_at=F("created_at") - timedelta(seconds=seconds))


def test_a_grade_is_one_a_person_and_can_be_changed() -> None:
    run = task("succeeded", user=person("user"))
    Grade(as_("olga", "operator"), "poor", "It misses the point.").run(run.pk)
    Grade(as_("olga", "operator"), "fair").run(run.pk)
    Grade(as_("user", "user"), "good").run(run.pk)
    said = {feedback.user_name: (feedback.grade, feedback.comment) for feedback in Feedback.objects.filter(run=run)}
    assert said == {"olga": ("fair", ""), "user": ("good", "")}
    assert AuditEntry.objects.filter(action="run.grade", target_id=str(run.pk)).count() == 3


@pytest.mark.parametrize(
    ("state", "who", "grade", "comment", "message"),
    [
        ("running", ("olga", "operator"), "good", "", "has not ended"),
        ("succeeded", ("ulla", "user"), "good", "", "no such task"),
        ("succeeded", ("olga", "operator"), "great", "", "no grade"),
        ("succeeded", ("olga", "operator"), "", " \0 ", "Choose a grade"),
    ],
)
def test_what_can_not_be_said_is_refused(
    state: str, who: tuple[str, str], grade: str, comment: str, message: str
) -> None:
    run = task(state, user=person("user"))
    with pytest.raises(NoFeedback, match=message):
        Grade(as_(*who), grade, comment).run(run.pk)
    assert not Feedback.objects.exists()


def test_a_note_is_heeded_by_the_runs_made_after_it() -> None:
    older(AddNote(as_("rita", "reviewer"), "Write shorter titles.").run("helper"))
    AddNote(as_("rita", "reviewer"), "Said just now.").run("helper")
    assert heeded(task("queued", submitted=timedelta(0))) == ["Write shorter titles."]


def test_a_run_goes_on_with_the_notes_that_it_began_with() -> None:
    note = AddNote(as_("rita", "reviewer"), "Write shorter titles.").run("helper")
    older(note)
    run = task("queued", submitted=timedelta(seconds=30))
    RetireNote(as_("olga", "operator")).run(note.pk)
    older(AddNote(as_("rita", "reviewer"), "Write longer ones.").run("helper"), 20)
    assert heeded(run) == ["Write shorter titles."]


def test_a_retired_note_is_not_heeded_any_more() -> None:
    note = AddNote(as_("rita", "reviewer"), "Write shorter titles.").run("helper")
    older(note)
    RetireNote(as_("olga", "operator")).run(note.pk)
    AgentNote.objects.update(retired_at=F("retired_at") - timedelta(seconds=30))
    assert heeded(task("queued", submitted=timedelta(0))) == []


def test_the_same_words_stand_once_and_only_so_many_notes_stand() -> None:
    rita = as_("rita", "reviewer")
    assert AddNote(rita, "Be brief.").run("helper") == AddNote(rita, " Be brief. ").run("helper")
    for place in range(MAX_NOTES - 1):
        AddNote(rita, f"Note {place}").run("helper")
    with pytest.raises(NoFeedback, match="Retire some"):
        AddNote(rita, "One more").run("helper")


@pytest.mark.parametrize(
    ("who", "agent", "text", "message"),
    [
        (("ulla", "user"), "helper", "Be brief.", "Operators and reviewers"),
        (("rita", "reviewer"), "nobody", "Be brief.", "no agent"),
        (("rita", "reviewer"), "helper", " ", "Write what"),
    ],
)
def test_a_note_that_can_not_be_is_refused(who: tuple[str, str], agent: str, text: str, message: str) -> None:
    with pytest.raises(NoFeedback, match=message):
        AddNote(as_(*who), text).run(agent)


def test_instructions_without_notes_stay_as_they_are() -> None:
    assert with_notes("Help.", []) == "Help."
    assert with_notes("Help.\n", ["Be brief."]).startswith("Help.\n\nThe people who review your work")
