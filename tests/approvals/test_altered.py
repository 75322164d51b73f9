"""What was decided and then altered in the database is refused before any of it runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agents.models import Effect, Step
from approvals.deciding import Decide
from approvals.models import Approval
from audit.models import AuditEntry
from audit.trail import SYSTEM
from jobs import script
from jobs.actions import Cancel, Redrive
from jobs.handlers import Failed, Parked, Succeeded
from jobs.models import Job, Wait
from jobs.waits import resolve
from tests.support.approvals import asked, carry_on, paid, reviewer
from tests.support.configs import loaded
from tests.support.paying import CONFIG

pytestmark = pytest.mark.django_db(transaction=True)

_config = loaded(CONFIG)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes"


def _asked(notes: Path, endpoint: str = "do.v1", *amounts: float) -> Approval:
    return asked(notes, *(amounts or (150,)), endpoint=endpoint, tool="test_pay")


def _approve(approval: Approval) -> None:
    Decide(reviewer(), "approve", approval.plan_hash).run(approval.pk)


def _refused(approval: Approval, notes: Path) -> None:
    """See that the run is a dead letter with words for the operator, and did nothing."""
    outcome = carry_on()
    assert isinstance(outcome, Failed)
    assert outcome.problem["type"] == "/problems/plan-altered"
    assert paid(notes) == []
    assert not Effect.objects.filter(run=approval.run_id).exists()
    job = Job.objects.get(pk=approval.run_id)
    assert (job.state, job.attempt) == ("dead", 1), "at once, without another attempt"
    assert job.error is not None
    assert "Nothing of it was run" in job.error["detail"]
    assert "redrive from the start" in job.error["detail"]
    entry = AuditEntry.objects.get(action="approval.altered")
    assert entry.after is not None
    assert entry.after["run"] == str(approval.run_id)


def _of_result(change: Callable[[dict[str, Any]], None]) -> Callable[[Approval], None]:
    def alter(approval: Approval) -> None:
        wait = Wait.objects.get(job_id=approval.run_id, key=approval.wait_key)
        assert isinstance(wait.result, dict)
        change(wait.result)
        wait.save()

    return alter


def _of_request(approval: Approval) -> None:
    approval.refresh_from_db()
    approval.plan["calls"][0]["arguments"]["amount_usd"] = 9999
    approval.save()


def _of_both(approval: Approval) -> None:
    _of_request(approval)
    _of_result(lambda result: result.update(plan=approval.plan))(approval)


@pytest.mark.parametrize(
    "alter",
    [
        _of_result(lambda result: result["plan"]["calls"][0]["arguments"].update(amount_usd=9999)),
        _of_result(lambda result: result.update(comment="And then wire it all to me.")),
        _of_result(lambda result: result.update(asked=[])),
        _of_result(lambda result: result.update(seal="0" * 64)),
        _of_result(lambda result: result.clear()),
        _of_request,
        _of_both,
        lambda approval: Approval.objects.filter(pk=approval.pk).update(state="rejected", decision="reject"),
        lambda approval: Approval.objects.filter(pk=approval.pk).delete(),
    ],
    ids=["arguments", "comment", "asked", "seal", "nothing", "request", "both", "decision", "gone"],
)
def test_a_decision_that_was_altered_in_the_database_is_refused_before_it_runs(
    notes: Path, alter: Callable[[Approval], Any]
) -> None:
    approval = _asked(notes)
    _approve(approval)
    alter(approval)
    _refused(approval, notes)


def test_a_rejection_that_was_made_an_approval_is_refused(notes: Path) -> None:
    approval = _asked(notes)
    Decide(reviewer(), "reject", approval.plan_hash, "no").run(approval.pk)
    _of_result(lambda result: result.update(decision="approve"))(approval)
    Approval.objects.filter(pk=approval.pk).update(decision="approve", state="approved")
    _refused(approval, notes)


def test_a_wait_that_was_resolved_without_a_decision_lets_nothing_run(notes: Path) -> None:
    approval = _asked(notes)
    assert script.run(resolve(approval.run_id, approval.wait_key, {"decision": "approve"}))
    _refused(approval, notes)


def test_a_decision_on_another_run_is_none_on_this_one(notes: Path) -> None:
    other, approval = _asked(notes), _asked(notes)
    _approve(other)
    decided: Any = Wait.objects.get(job_id=other.run_id, key=other.wait_key).result
    _approve(approval)
    _of_result(lambda result: result.update(decided))(approval)
    carry_on()  # the other one, of which nothing was altered
    assert paid(notes) == ["paid-150"]
    notes.unlink()
    _refused(approval, notes)


def test_a_decision_from_before_a_redrive_is_none_after_it(notes: Path) -> None:
    before = _asked(notes, "later.v1")
    _approve(before)
    old: Any = Wait.objects.get(job_id=before.run_id, key=before.wait_key).result
    assert isinstance(carry_on(), Parked)
    Job.objects.filter(pk=before.run_id).update(state="cancelled", finished_at=before.created_at)
    Redrive(SYSTEM, from_="start").run(before.run_id)
    assert isinstance(carry_on(), Parked)
    after = Approval.objects.get(run=before.run_id, state="pending")
    assert after.wait_key == before.wait_key
    _approve(after)
    _of_result(lambda result: result.update(old))(after)
    _refused(after, notes)


def test_a_decision_from_before_a_redrive_is_none_while_people_are_asked_anew(notes: Path) -> None:
    before = _asked(notes, "later.v1")
    _approve(before)
    old: Any = Wait.objects.get(job_id=before.run_id, key=before.wait_key).result
    assert isinstance(carry_on(), Parked)
    Cancel(SYSTEM).run(before.run_id)
    Redrive(SYSTEM, from_="start").run(before.run_id)
    assert isinstance(carry_on(), Parked)
    after = Approval.objects.get(run=before.run_id, state="pending")
    script.run(resolve(after.run_id, after.wait_key, old))
    _refused(after, notes)


def test_a_decision_from_before_a_redrive_is_none_before_people_are_asked_anew(notes: Path) -> None:
    before = _asked(notes, "later.v1")
    _approve(before)
    old: Any = Wait.objects.get(job_id=before.run_id, key=before.wait_key).result
    assert isinstance(carry_on(), Parked)
    Cancel(SYSTEM).run(before.run_id)
    Redrive(SYSTEM, from_="start").run(before.run_id)
    script.run(resolve(before.run_id, before.wait_key, old, kind="person"))
    _refused(before, notes)


def test_a_decision_that_was_altered_in_the_journal_is_refused_before_it_runs(notes: Path) -> None:
    approval = _asked(notes, "later.v1")
    _approve(approval)
    assert isinstance(carry_on(), Parked)
    step = Step.objects.get(run=approval.run_id, kind="wait")
    assert isinstance(step.output, dict)
    step.output["plan"]["calls"][0]["arguments"]["amount_usd"] = 9999
    step.save()
    script.run(resolve(approval.run_id, "go#1", None))
    _refused(approval, notes)


def test_a_run_whose_plan_was_altered_asks_anew_when_it_is_redriven_from_the_start(notes: Path) -> None:
    approval = _asked(notes)
    _approve(approval)
    _of_request(approval)
    _refused(approval, notes)
    Redrive(SYSTEM, from_="start").run(approval.run_id)
    assert isinstance(carry_on(), Parked)
    again = Approval.objects.get(run=approval.run_id, state="pending")
    assert again.plan["calls"][0]["arguments"]["amount_usd"] == 150
    _approve(again)
    assert isinstance(carry_on(), Succeeded)
    assert paid(notes) == ["paid-150"]


def test_a_decision_holds_under_a_new_key_of_the_site_while_the_old_one_is_kept_as_a_fallback(
    notes: Path, settings: Any
) -> None:
    approval = _asked(notes)
    _approve(approval)
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "n" * 50, ["o" * 50, settings.SECRET_KEY]
    assert isinstance(carry_on(), Succeeded)
    assert paid(notes) == ["paid-150"]


def test_a_decision_is_void_under_a_new_key_of_the_site(notes: Path, settings: Any) -> None:
    approval = _asked(notes)
    _approve(approval)
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "n" * 50, ["o" * 50]
    _refused(approval, notes)


def test_what_nobody_altered_runs(notes: Path) -> None:
    approval = _asked(notes, "later.v1")
    _approve(approval)
    assert isinstance(carry_on(), Parked)
    script.run(resolve(approval.run_id, "go#1", None))
    assert isinstance(carry_on(), Succeeded)
    assert paid(notes) == ["paid-150"]
