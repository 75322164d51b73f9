"""Saying what became of a call of which nobody knows how it ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from agents.invoke import invoke
from agents.models import Effect, Run
from approvals.errors import AlreadyDecided, MayNot, Undecidable
from approvals.models import Approval
from approvals.resolving import ResolveEffect
from audit.models import AuditEntry
from audit.trail import SYSTEM
from jobs.actions import Cancel, Redrive
from jobs.handlers import Parked, Succeeded
from jobs.models import Job
from tests.support.approvals import carry_on, paid, reviewer
from tests.support.configs import loaded
from tests.support.paying import CONFIG
from tests.support.people import person

pytestmark = pytest.mark.django_db(transaction=True)

_config = loaded(CONFIG)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes"


def _started(notes: Path, *amounts: float, tool: str = "test_late") -> UUID:
    given = {"file": str(notes), "tool": tool, "amounts": list(amounts)}
    run_id = invoke("do.v1", given, user=person("user"), actor=SYSTEM).run_id
    assert isinstance(carry_on(), Parked)
    return run_id


def _questions(run_id: UUID) -> list[Approval]:
    return list(Approval.objects.filter(run=run_id, state="pending").order_by("id"))


def _results(run_id: UUID) -> list[Any]:
    assert isinstance(carry_on(), Succeeded)
    output = Run.objects.get(pk=run_id).output
    assert output is not None
    return list(output["results"])


def test_a_call_that_did_not_answer_in_time_is_asked_about(notes: Path) -> None:
    run_id = _started(notes, 5)
    (question,) = _questions(run_id)
    assert (question.kind, question.tools, question.deadline) == ("effect", ["test_late"], None)
    effect = Effect.objects.get(run=run_id)
    assert (question.effect_id, effect.state) == (effect.pk, "unknown")
    assert Job.objects.get(pk=run_id).state == "waiting"


def test_a_call_that_paid_and_then_broke_is_asked_about_and_not_repeated_by_a_redrive(notes: Path) -> None:
    run_id = _started(notes, 5, tool="test_breaks_after")
    assert Effect.objects.get(run=run_id).state == "unknown"
    Cancel(SYSTEM).run(run_id)
    Redrive(SYSTEM, from_="start").run(run_id)
    assert isinstance(carry_on(), Parked)
    (question,) = _questions(run_id)
    ResolveEffect(reviewer(), "happened", "The bank says so.").run(question.pk)
    assert _results(run_id) == [[True, None, "The bank says so."]]
    assert paid(notes) == ["broken-5"]


def test_it_happened_and_the_agent_reads_what_came_of_it(notes: Path) -> None:
    run_id = _started(notes, 5)
    (question,) = _questions(run_id)
    closed = ResolveEffect(reviewer(), "happened", "The bank says so.", result={"receipt": 7}).run(question.pk)
    assert (closed.state, closed.decision, closed.decided_by) == ("approved", "happened", ["rita"])
    assert _results(run_id) == [[True, None, {"receipt": 7}]]
    assert paid(notes) == ["late-5"]
    effect = Effect.objects.get(run=run_id)
    assert (effect.state, effect.resolved_by, effect.note) == ("done", "rita", "The bank says so.")
    entry = AuditEntry.objects.get(action="approval.decide", target_id=str(question.pk))
    assert (entry.actor_name, entry.note) == ("rita", "The bank says so.")


def test_it_is_done_again(notes: Path) -> None:
    run_id = _started(notes, 5)
    ResolveEffect(reviewer(), "again", "The bank knows of nothing.").run(_questions(run_id)[0].pk)
    assert _results(run_id) == [[True, None, "paid 5"]]
    assert paid(notes) == ["late-5", "late-5"]
    assert Effect.objects.get(run=run_id).attempt == 2


def test_it_is_given_up_and_stays_so(notes: Path) -> None:
    run_id = _started(notes, 5)
    ResolveEffect(reviewer(), "give_up", "Too late anyway.").run(_questions(run_id)[0].pk)
    assert [found[:2] for found in _results(run_id)] == [[False, "given-up"]]
    assert paid(notes) == ["late-5"]


def test_all_that_nobody_knows_of_is_asked_at_once_and_the_run_goes_on_after_the_last_answer(notes: Path) -> None:
    run_id = _started(notes, 5, 6)
    first, second = _questions(run_id)
    ResolveEffect(reviewer(), "again", "No trace of it.").run(second.pk)
    assert Job.objects.get(pk=run_id).state == "waiting"
    ResolveEffect(reviewer(), "happened", "I saw it.").run(first.pk)
    assert _results(run_id) == [[True, None, "I saw it."], [True, None, "paid 6"]]
    assert sorted(paid(notes)) == ["late-5", "late-6", "late-6"]


def test_nothing_is_resolved_without_words_or_twice_or_by_others(notes: Path) -> None:
    run_id = _started(notes, 5)
    (question,) = _questions(run_id)
    with pytest.raises(Undecidable, match="how you know"):
        ResolveEffect(reviewer(), "again", " ").run(question.pk)
    with pytest.raises(MayNot):
        ResolveEffect(reviewer("ulla", "user"), "again", "So.").run(question.pk)
    assert Effect.objects.get(run=run_id).state == "unknown"
    ResolveEffect(reviewer("olga", "operator"), "give_up", "So.").run(question.pk)
    with pytest.raises(AlreadyDecided, match="olga"):
        ResolveEffect(reviewer(), "again", "So.").run(question.pk)
    assert Effect.objects.get(run=run_id).state == "given-up"


def test_a_run_that_was_cancelled_and_redriven_asks_again_before_it_does_anything(notes: Path) -> None:
    run_id = _started(notes, 5)
    Cancel(SYSTEM).run(run_id)
    assert _questions(run_id) == []
    for way in ("checkpoint", "start"):
        Redrive(SYSTEM, from_=way).run(run_id)
        assert isinstance(carry_on(), Parked)
        assert len(_questions(run_id)) == 1
        Cancel(SYSTEM).run(run_id)
    assert paid(notes) == ["late-5"]
