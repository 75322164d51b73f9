"""Deciding on a plan: what runs is what was approved, once; whoever comes second is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.models import Effect, Run
from approvals.deciding import Decide
from approvals.errors import AlreadyDecided, MayNot, PlanChanged, Undecidable
from jobs.handlers import Parked, Succeeded
from jobs.models import Job
from tests.support.approvals import asked, carry_on, config, fresh, paid, reviewer
from tests.support.configs import load, loaded
from tests.support.people import person

pytestmark = pytest.mark.django_db(transaction=True)

_config = loaded(config())


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes"


def test_an_approved_call_runs_once_and_the_ledger_says_who_let_it(notes: Path) -> None:
    approval = asked(notes, 150, 20)
    assert paid(notes) == []
    assert Job.objects.get(pk=approval.run_id).state == "waiting"
    Decide(reviewer(), "approve", approval.plan_hash).run(approval.pk)
    assert isinstance(carry_on(), Succeeded)
    assert paid(notes) == ["paid-150", "paid-20"]
    found = fresh(approval)
    assert (found.state, found.decision, found.decided_by) == ("approved", "approve", ["rita"])
    by = {effect.arguments["amount_usd"]: effect.approval_id for effect in Effect.objects.filter(run=approval.run_id)}
    assert by == {150: approval.pk, 20: None}


def test_what_runs_is_exactly_what_was_approved_with_changes(notes: Path) -> None:
    approval = asked(notes, 150)
    calls = [{"id": "1", "arguments": {"file": str(notes), "amount_usd": 60}}]
    Decide(reviewer(), "approve_with_changes", approval.plan_hash, calls=calls).run(approval.pk)
    assert isinstance(carry_on(), Succeeded)
    assert paid(notes) == ["paid-60"]
    found = fresh(approval)
    assert found.decision == "approve_with_changes"
    assert found.plan_hash != approval.plan_hash


def test_a_rejected_call_is_told_to_the_agent(notes: Path) -> None:
    approval = asked(notes, 150, 20)
    Decide(reviewer(), "reject", approval.plan_hash, "too much").run(approval.pk)
    assert isinstance(carry_on(), Succeeded)
    assert paid(notes) == ["paid-20"]
    output = Run.objects.get(pk=approval.run_id).output
    assert output is not None
    assert output["results"][0][:2] == [False, "rejected"]


def test_the_agent_revises_and_asks_again(notes: Path) -> None:
    first = asked(notes, 150, endpoint="plan.v1")
    Decide(reviewer(), "request_changes", first.plan_hash, "half of it").run(first.pk)
    assert isinstance(carry_on(), Parked)
    second = type(first).objects.get(run=first.run_id, state="pending")
    assert (second.version, second.revises_id) == (2, first.pk)
    assert second.plan["calls"][0]["arguments"]["amount_usd"] == 75
    assert (fresh(first).state, fresh(first).decision) == ("superseded", "request_changes")
    Decide(reviewer(), "approve", second.plan_hash).run(second.pk)
    assert isinstance(carry_on(), Succeeded)
    assert paid(notes) == ["paid-75"]


def test_the_second_decision_is_refused_in_words(notes: Path) -> None:
    approval = asked(notes, 150)
    Decide(reviewer("rita"), "approve", approval.plan_hash).run(approval.pk)
    with pytest.raises(AlreadyDecided, match="approved by rita already"):
        Decide(reviewer("rolf"), "reject", approval.plan_hash, "no").run(approval.pk)


def test_a_decision_on_another_plan_is_refused(notes: Path) -> None:
    approval = asked(notes, 150)
    with pytest.raises(PlanChanged):
        Decide(reviewer(), "approve", "0" * 64).run(approval.pk)
    assert fresh(approval).state == "pending"


def test_only_who_may_decides(notes: Path) -> None:
    approval = asked(notes, 150)
    with pytest.raises(MayNot, match="the group reviewer"):
        Decide(reviewer("ulla", "user"), "approve", approval.plan_hash).run(approval.pk)


def test_nobody_approves_their_own_where_the_policy_says_so(notes: Path) -> None:
    load(config("not_own: true"))
    rita = person("rita", "reviewer")
    approval = asked(notes, 150, user=rita)
    with pytest.raises(MayNot, match="yourself"):
        Decide(reviewer("rita"), "approve", approval.plan_hash).run(approval.pk)


def test_two_must_agree_on_one_plan(notes: Path) -> None:
    load(config("quorum: 2"))
    approval = asked(notes, 150)
    assert Decide(reviewer("rita"), "approve", approval.plan_hash).run(approval.pk).missing == 1
    again = Decide(reviewer("rita"), "approve", approval.plan_hash).run(approval.pk)
    assert again.missing == 1, "one person is one vote"
    calls = [{"id": "1", "arguments": {"file": str(notes), "amount_usd": 120}}]
    changed = Decide(reviewer("rolf"), "approve_with_changes", approval.plan_hash, calls=calls).run(approval.pk)
    assert changed.missing == 1, "rita agreed to another plan"
    with pytest.raises(PlanChanged):
        Decide(reviewer("rita"), "approve", approval.plan_hash).run(approval.pk)
    Decide(reviewer("rita"), "approve", fresh(approval).plan_hash).run(approval.pk)
    assert isinstance(carry_on(), Succeeded)
    assert paid(notes) == ["paid-120"]


def test_changes_are_held_against_the_tools_schema(notes: Path) -> None:
    approval = asked(notes, 150)
    calls = [{"id": "1", "arguments": {"file": str(notes), "amount_usd": "a lot"}}]
    with pytest.raises(Undecidable, match="amount_usd"):
        Decide(reviewer(), "approve_with_changes", approval.plan_hash, calls=calls).run(approval.pk)
    assert fresh(approval).plan_hash == approval.plan_hash


def test_a_change_that_falls_under_a_stricter_rule_needs_what_that_one_needs(notes: Path) -> None:
    load(config(more='  - {when: {tool: test_pay, "amount_usd >": 1000}, group: operator, quorum: 2}\n'))
    approval = asked(notes, 150)
    calls = [{"id": "1", "arguments": {"file": str(notes), "amount_usd": 5000}}]
    with pytest.raises(MayNot, match="operator"):
        Decide(reviewer(), "approve_with_changes", approval.plan_hash, calls=calls).run(approval.pk)
    assert fresh(approval).groups == ["reviewer"]


def test_flagged_steps_are_decided_one_by_one(notes: Path) -> None:
    load(config("per: step"))
    approval = asked(notes, 150, 200)
    assert approval.flagged == ["1", "2"]
    with pytest.raises(Undecidable, match="2 is missing"):
        Decide(reviewer(), "approve", approval.plan_hash, steps={"1": "approve"}).run(approval.pk)
    Decide(reviewer(), "approve", approval.plan_hash, steps={"1": "approve", "2": "reject"}).run(approval.pk)
    assert isinstance(carry_on(), Succeeded)
    assert paid(notes) == ["paid-150"]
    assert fresh(approval).decision == "approve_with_changes"
