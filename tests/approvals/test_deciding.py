"""Deciding on a plan: what runs is what was approved, once; whoever comes second is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Group, User

from agents.models import Effect, Run
from agents.runtime.plans import Plan
from approvals.changing import MAX_PLAN
from approvals.claiming import Delegate
from approvals.deciding import Decide
from approvals.errors import AlreadyDecided, MayNot, PlanChanged, Undecidable
from approvals.models import Approval, Vote
from audit.models import AuditEntry
from jobs.actions import MAX_NOTE
from jobs.handlers import Parked, Succeeded
from jobs.models import Job, JobEvent, Wait
from tests.support.approvals import asked, carry_on, config, fresh, paid, reviewer
from tests.support.configs import load, loaded
from tests.support.people import person

pytestmark = pytest.mark.django_db(transaction=True)

_config = loaded(config())


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes"


def to_pay(notes: Path, amount: Any, call: str = "1") -> list[dict[str, Any]]:
    """Return a plan of one payment, as a reviewer sends it."""
    return [{"id": call, "arguments": {"file": str(notes), "amount_usd": amount}}]


def votes(approval: Approval) -> list[tuple[str, str, bool]]:
    return [(vote.user_name, vote.decision, vote.void) for vote in approval.votes.order_by("id")]


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


def test_a_changed_plan_is_told_of_as_it_stands(notes: Path) -> None:
    load(config("quorum: 2"))
    approval = asked(notes, 150)
    Decide(reviewer(), "approve_with_changes", approval.plan_hash, calls=to_pay(notes, 99000)).run(approval.pk)
    found = fresh(approval)
    assert found.state == "pending"
    assert found.amount_usd == 99000
    assert "$99,000.00" in found.title
    assert "150" not in found.title


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
    outcome = Decide(reviewer(), "approve_with_changes", approval.plan_hash, calls=calls).run(approval.pk)
    assert (outcome.missing, fresh(approval).groups) == (2, ["reviewer", "operator"])
    for name in ("olga", "otto"):
        assert fresh(approval).state == "pending"
        Decide(reviewer(name, "operator"), "approve", fresh(approval).plan_hash).run(approval.pk)
    assert fresh(approval).decided_by == ["rita", "olga", "otto"]


BOARD = """
  - {name: boss, when: {tool: test_pay, "amount_usd >": 1000}, users: bea}
  - {name: two, when: {tool: test_pay, "amount_usd >": 100}, group: finance, quorum: 2}
"""


def test_what_each_rule_demands_must_be_met(notes: Path) -> None:
    load(config(more=BOARD))
    approval = asked(notes, 5000)
    assert [demand["quorum"] for demand in approval.demands] == [1, 1, 2]
    missing = []
    for name, role in (("fay", "finance"), ("fred", "finance"), ("rita", "reviewer")):
        missing.append(Decide(reviewer(name, role), "approve", approval.plan_hash).run(approval.pk).missing)
    assert missing == [1, 1, 1]
    assert fresh(approval).state == "pending", "two of finance and a reviewer do not stand in for bea"
    Decide(reviewer("bea", "user"), "approve", approval.plan_hash).run(approval.pk)
    assert fresh(approval).state == "approved"


def test_a_delegate_stands_in_for_nobody_but_who_delegated(notes: Path) -> None:
    load(config(more=BOARD))
    approval = asked(notes, 5000)
    person("dan")
    Delegate(reviewer("rita"), "dan").run(approval.pk)
    Decide(reviewer("dan", "user"), "approve", approval.plan_hash).run(approval.pk)
    Decide(reviewer("fay", "finance"), "approve", approval.plan_hash).run(approval.pk)
    assert Decide(reviewer("fred", "finance"), "approve", approval.plan_hash).run(approval.pk).missing == 1
    assert fresh(approval).state == "pending"


def test_nobody_meets_a_quorum_with_whom_they_delegate_to(notes: Path) -> None:
    load(config("quorum: 2"))
    approval = asked(notes, 2000)
    for giver, name in (("rita", "sock"), ("sock", "puppet")):
        person(name)
        Delegate(reviewer(giver, *(["reviewer"] if giver == "rita" else ["user"])), name).run(approval.pk)
    Approval.objects.update(claimed_by=None, claimed_until=None)
    for name in ("sock", "puppet"):
        assert Decide(reviewer(name, "user"), "approve", approval.plan_hash).run(approval.pk).missing == 1
    assert Decide(reviewer("rita"), "approve", approval.plan_hash).run(approval.pk).missing == 1
    assert Decide(reviewer("rolf"), "approve", approval.plan_hash).run(approval.pk).missing == 0


def test_somebody_of_two_groups_counts_for_both(notes: Path) -> None:
    load(config(more="  - {name: both, when: {tool: test_pay}, group: operator}\n"))
    approval = asked(notes, 150)
    Decide(reviewer("ola", "reviewer", "operator"), "approve", approval.plan_hash).run(approval.pk)
    assert fresh(approval).decided_by == ["ola"]


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


# --- Saying it again ------------------------------------------------------------------------------------------------


def test_a_double_click_is_told_that_it_is_decided_and_changes_nothing(notes: Path) -> None:
    approval = asked(notes, 150)
    Decide(reviewer(), "approve", approval.plan_hash).run(approval.pk)
    before = (AuditEntry.objects.count(), JobEvent.objects.count(), Vote.objects.count())
    with pytest.raises(AlreadyDecided, match="approved by rita already") as refused:
        Decide(reviewer(), "approve", approval.plan_hash).run(approval.pk)
    assert refused.value.extra == {"state": "approved", "decision": "approve", "by": ["rita"]}
    assert (AuditEntry.objects.count(), JobEvent.objects.count(), Vote.objects.count()) == before


def test_voting_the_same_again_is_no_second_vote(notes: Path) -> None:
    load(config("quorum: 2"))
    approval = asked(notes, 150)
    for comment in ("fine", "fine", ""):
        assert Decide(reviewer(), "approve", approval.plan_hash, comment).run(approval.pk).missing == 1
    assert votes(approval) == [("rita", "approve", False)]
    Decide(reviewer(), "approve", approval.plan_hash, "on second thought, fine too").run(approval.pk)
    assert votes(approval) == [("rita", "approve", True), ("rita", "approve", False)]


def test_one_vote_against_decides_whatever_the_quorum(notes: Path) -> None:
    load(config("quorum: 2"))
    approval = asked(notes, 150)
    Decide(reviewer("rita"), "approve", approval.plan_hash).run(approval.pk)
    Decide(reviewer("rita"), "reject", approval.plan_hash, "I was wrong").run(approval.pk)
    found = fresh(approval)
    assert (found.state, found.decided_by, found.comment) == ("rejected", ["rita"], "I was wrong")


# --- Whose votes count ----------------------------------------------------------------------------------------------


def lose_role(user: User) -> None:
    user.groups.clear()


def close_account(user: User) -> None:
    user.is_active = False
    user.save()


def delete(user: User) -> None:
    user.delete()


@pytest.mark.parametrize("lose", [lose_role, close_account, delete])
def test_a_vote_counts_only_while_its_voter_may_decide(notes: Path, lose: Any) -> None:
    load(config("quorum: 2"))
    approval = asked(notes, 150)
    Decide(reviewer("rita"), "approve", approval.plan_hash).run(approval.pk)
    lose(User.objects.get(username="rita"))
    assert Decide(reviewer("rolf"), "approve", approval.plan_hash).run(approval.pk).missing == 1
    assert fresh(approval).state == "pending"
    Decide(reviewer("ruth"), "approve", approval.plan_hash).run(approval.pk)
    assert fresh(approval).decided_by == ["rolf", "ruth"]


@pytest.mark.parametrize("lose", [lose_role, close_account, delete])
def test_a_session_of_before_decides_nothing(notes: Path, lose: Any) -> None:
    approval = asked(notes, 150)
    actor = reviewer("rita")
    assert Approval.objects.reviewable_by(actor.user).exists()  # type: ignore[arg-type]
    lose(User.objects.get(username="rita"))
    with pytest.raises(MayNot):
        Decide(actor, "approve", approval.plan_hash).run(approval.pk)


def test_who_is_called_something_else_by_now_has_voted_all_the_same(notes: Path) -> None:
    load(config("quorum: 2"))
    approval = asked(notes, 150)
    Decide(reviewer("rita"), "approve", approval.plan_hash).run(approval.pk)
    User.objects.filter(username="rita").update(username="rita.b")
    assert Decide(reviewer("rita.b"), "approve", approval.plan_hash).run(approval.pk).missing == 1, "she is one person"
    Decide(reviewer("rolf"), "approve", approval.plan_hash).run(approval.pk)
    assert fresh(approval).decided_by == ["rita", "rolf"]


def test_a_vote_of_somebody_it_was_delegated_to_counts(notes: Path) -> None:
    load(config("quorum: 2"))
    approval = asked(notes, 150)
    person("ulla", "user")
    Delegate(reviewer("rita"), "ulla").run(approval.pk)
    Decide(reviewer("ulla", "user"), "approve", approval.plan_hash).run(approval.pk)
    Decide(reviewer("rolf"), "approve", approval.plan_hash).run(approval.pk)
    assert fresh(approval).decided_by == ["ulla", "rolf"]


def test_somebody_of_one_demand_can_stand_in_for_another(notes: Path) -> None:
    load(config(more=BOARD))
    approval = asked(notes, 5000)
    for name, role in (("fay", "finance"), ("rita", "reviewer")):
        Decide(reviewer(name, role), "approve", approval.plan_hash).run(approval.pk)
    person("bea")
    Delegate(reviewer("fred", "finance"), "bea").run(approval.pk)
    Decide(reviewer("bea", "user"), "approve", approval.plan_hash).run(approval.pk)
    assert fresh(approval).decided_by == ["fay", "rita", "bea"]


def test_a_rule_of_named_users_lets_nobody_else_decide(notes: Path) -> None:
    load(config("users: [bea]"))
    approval = asked(notes, 150)
    with pytest.raises(MayNot, match="Only bea may"):
        Decide(reviewer(), "approve", approval.plan_hash).run(approval.pk)
    Decide(reviewer("bea", "user"), "approve", approval.plan_hash).run(approval.pk)
    assert fresh(approval).decided_by == ["bea"]


# --- Changes --------------------------------------------------------------------------------------------------------

OVER_1000 = '  - {when: {tool: test_pay, "amount_usd >": 1000}, group: board, quorum: 2}\n'


def test_a_change_by_one_of_those_of_the_stricter_rule_waits_for_another_of_them(notes: Path) -> None:
    load(config(more=OVER_1000))
    approval = asked(notes, 150)
    ulla = person("ulla", "user")
    Delegate(reviewer("rita"), "ulla").run(approval.pk)
    Approval.objects.update(claimed_by=None, claimed_until=None)
    both = reviewer("bea", "reviewer", "board")
    done = Decide(both, "approve_with_changes", approval.plan_hash, calls=to_pay(notes, 5000)).run(approval.pk)
    found = fresh(approval)
    assert (done.missing, found.groups, found.quorum) == (1, ["reviewer", "board"], 2)
    for actor in (reviewer("rita"), reviewer(ulla.username, "user")):
        # Who delegated it could not have given what the other rule wants, nor can they themselves.
        assert Decide(actor, "approve", found.plan_hash).run(approval.pk).missing == 1
    Decide(reviewer("bob", "board"), "approve", found.plan_hash).run(approval.pk)
    assert fresh(approval).state == "approved"
    assert isinstance(carry_on(), Succeeded)
    assert paid(notes) == ["paid-5000"]
    entry = AuditEntry.objects.filter(action="approval.vote", target_id=str(approval.pk)).order_by("id")[0]
    assert entry.after is not None
    assert (entry.after["changed_from"], entry.after["plan_hash"]) == (approval.plan_hash, found.plan_hash)
    assert (entry.after["groups"], entry.after["quorum"]) == (["reviewer", "board"], 2)


def test_a_change_that_falls_under_no_other_rule_leaves_those_who_decide_as_they_are(notes: Path) -> None:
    load(config("quorum: 2"))
    approval = asked(notes, 150)
    person("ulla", "user")
    Delegate(reviewer("rita"), "ulla").run(approval.pk)
    ulla = reviewer("ulla", "user")
    Decide(ulla, "approve_with_changes", approval.plan_hash, calls=to_pay(notes, 120)).run(approval.pk)
    found = fresh(approval)
    assert (found.groups, found.users, found.quorum) == (["reviewer"], ["ulla"], 2)


def test_going_back_under_the_limit_does_not_loosen_what_a_change_has_tightened(notes: Path) -> None:
    load(config(more=OVER_1000))
    approval = asked(notes, 150)
    bea = reviewer("bea", "reviewer", "board")
    Decide(bea, "approve_with_changes", approval.plan_hash, calls=to_pay(notes, 5000)).run(approval.pk)
    again = fresh(approval).plan_hash
    done = Decide(bea, "approve_with_changes", again, calls=to_pay(notes, 110)).run(approval.pk)
    assert (done.missing, fresh(approval).quorum) == (1, 2)


def test_a_plan_that_is_changed_back_is_approved_as_it_was_asked_for(notes: Path) -> None:
    load(config("quorum: 2"))
    approval = asked(notes, 150)
    Decide(reviewer("rita"), "approve_with_changes", approval.plan_hash, calls=to_pay(notes, 120)).run(approval.pk)
    again = fresh(approval).plan_hash
    Decide(reviewer("rolf"), "approve_with_changes", again, calls=to_pay(notes, 150)).run(approval.pk)
    assert fresh(approval).state == "pending", "rita agreed to another plan"
    Decide(reviewer("rita"), "approve", approval.plan_hash).run(approval.pk)
    assert (fresh(approval).decision, fresh(approval).plan_hash) == ("approve", approval.plan_hash)


@pytest.mark.parametrize("amount", [150, 150.0])
def test_changes_that_change_nothing_are_refused(notes: Path, amount: float) -> None:
    approval = asked(notes, 150)
    calls = to_pay(notes, amount)
    with pytest.raises(Undecidable, match="Nothing is changed"):
        Decide(reviewer(), "approve_with_changes", approval.plan_hash, calls=calls).run(approval.pk)
    assert votes(approval) == []


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("calls", "words"),
    [
        ([], "Nothing is left"),
        ([{"id": "7"}], "no such call"),
        ([{"id": "1"}, {"id": "1"}], "or twice"),
        ([{}], "no such call"),
        (["1", None, 5], "no such call"),
        ([{"id": "1", "tool": "rm"}], "this call is of test_pay"),
        ([{"id": "1", "arguments": [1]}], "a mapping"),
        ([{"id": "1", "arguments": {}}], "amount_usd"),
        ([{"id": "1", "arguments": {"file": "x", "amount_usd": float("nan")}}], "JSON"),
        ([{"id": "1", "arguments": {"file": "x", "amount_usd": 1, "more": 1}}], "more"),
        ([{"id": "1", "arguments": {"file": "x", "amount_usd": deep(300)}}], "amount_usd"),
        ([{"id": "1", "arguments": {"file": "x", "amount_usd": deep(5_000)}}], "nested too deeply"),
        ([{"id": "1", "arguments": {1: 2}}], "JSON"),
        ([{"id": "1", "arguments": {"file": "y" * MAX_PLAN, "amount_usd": 1}}], "larger than"),
        ([{"id": "x"}] * 100_000, "no such call"),
    ],
)
def test_what_is_no_change_of_the_plan_is_refused_in_words(notes: Path, calls: Any, words: str) -> None:
    approval = asked(notes, 150)
    with pytest.raises(Undecidable, match=words) as refused:
        Decide(reviewer(), "approve_with_changes", approval.plan_hash, calls=calls).run(approval.pk)
    assert len(str(refused.value.body())) < 10_000
    assert (votes(approval), fresh(approval).state) == ([], "pending")


def test_what_the_database_cannot_keep_is_replaced_before_anybody_agrees_to_it(notes: Path) -> None:
    approval = asked(notes, 150)
    calls = [{"id": "1", "arguments": {"file": "a\0b\ud800", "amount_usd": 1}}]
    Decide(reviewer(), "approve_with_changes", approval.plan_hash, calls=calls).run(approval.pk)
    plan = Plan.model_validate(fresh(approval).plan)
    assert plan.calls[0].arguments["file"] == "a\ufffdb\ufffd"
    assert plan.hash == fresh(approval).plan_hash


def test_calls_that_only_the_program_knows_can_be_changed_too(notes: Path) -> None:
    approval = asked(notes, 150)
    plan = Plan.model_validate(approval.plan)
    other = plan.model_copy(update={"calls": (plan.calls[0].model_copy(update={"tool": "by hand"}),)})
    kept = other.model_dump(mode="json")
    Approval.objects.update(plan=kept, asked_plan=kept, plan_hash=other.hash)
    calls = [{"id": "1", "arguments": {"anything": "goes"}}]
    Decide(reviewer(), "approve_with_changes", other.hash, calls=calls).run(approval.pk)
    assert fresh(approval).plan["calls"][0]["arguments"] == {"anything": "goes"}


# --- Step by step ---------------------------------------------------------------------------------------------------


def test_each_of_two_decides_on_the_flagged_steps_that_are_left(notes: Path) -> None:
    load(config("per: step, quorum: 2"))
    approval = asked(notes, 150, 200)
    steps: Any = {"1": "approve", "2": "reject"}
    assert Decide(reviewer("rita"), "approve", approval.plan_hash, steps=steps).run(approval.pk).missing == 1
    found = fresh(approval)
    assert found.flagged == ["1"]
    with pytest.raises(Undecidable, match="1 is missing"):
        Decide(reviewer("rolf"), "approve", found.plan_hash).run(approval.pk)
    with pytest.raises(Undecidable, match="no step '2'"):
        Decide(reviewer("rolf"), "approve", found.plan_hash, steps=steps).run(approval.pk)
    Decide(reviewer("rolf"), "approve", found.plan_hash, steps={"1": "approve"}).run(approval.pk)
    assert isinstance(carry_on(), Succeeded)
    assert paid(notes) == ["paid-150"]


def test_steps_that_nobody_flagged_can_be_rejected_as_well(notes: Path) -> None:
    approval = asked(notes, 150, 200)
    Decide(reviewer(), "approve", approval.plan_hash, steps={"1": "reject"}).run(approval.pk)
    assert isinstance(carry_on(), Succeeded)
    assert paid(notes) == ["paid-200"]


def test_rejecting_every_step_is_no_approval(notes: Path) -> None:
    approval = asked(notes, 150)
    with pytest.raises(Undecidable, match="Reject it instead"):
        Decide(reviewer(), "approve", approval.plan_hash, steps={"1": "reject"}).run(approval.pk)


def test_a_step_is_approved_or_rejected(notes: Path) -> None:
    approval = asked(notes, 150)
    steps: Any = {"1": "perhaps"}
    with pytest.raises(Undecidable, match="approved or rejected"):
        Decide(reviewer(), "approve", approval.plan_hash, steps=steps).run(approval.pk)


def test_a_change_that_flags_a_step_lets_the_next_one_decide_on_it_by_itself(notes: Path) -> None:
    load(config("quorum: 2", '  - {when: {tool: test_pay, "amount_usd >": 1000}, per: step}\n'))
    approval = asked(notes, 150)
    calls = to_pay(notes, 5000)
    Decide(reviewer("rita"), "approve_with_changes", approval.plan_hash, calls=calls).run(approval.pk)
    found = fresh(approval)
    assert (found.flagged, found.quorum) == (["1"], 2)
    with pytest.raises(Undecidable, match="1 is missing"):
        Decide(reviewer("rolf"), "approve", found.plan_hash).run(approval.pk)


# --- What is said ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decision", ["reject", "request_changes"])
@pytest.mark.parametrize("comment", ["", " \n", "\0"])
def test_whoever_decides_against_says_why(notes: Path, decision: Any, comment: str) -> None:
    approval = asked(notes, 150)
    with pytest.raises(Undecidable, match="Say why"):
        Decide(reviewer(), decision, approval.plan_hash, comment).run(approval.pk)


def test_a_comment_is_kept_whole_or_refused(notes: Path) -> None:
    approval = asked(notes, 150)
    with pytest.raises(Undecidable, match="2,001 characters"):
        Decide(reviewer(), "reject", approval.plan_hash, "x" * (MAX_NOTE + 1)).run(approval.pk)
    Decide(reviewer(), "reject", approval.plan_hash, " \ud800" + "é" * (MAX_NOTE - 1) + "\0 ").run(approval.pk)
    assert fresh(approval).comment == "\ufffd" + "é" * (MAX_NOTE - 1)


def test_what_several_say_is_kept_together(notes: Path) -> None:
    load(config("quorum: 2"))
    approval = asked(notes, 150)
    Decide(reviewer("rita"), "approve", approval.plan_hash, "fine").run(approval.pk)
    Decide(reviewer("rolf"), "approve", approval.plan_hash, "mind the date").run(approval.pk)
    assert fresh(approval).comment == "fine\nmind the date"


def test_only_a_decision_on_a_plan_decides_on_a_plan(notes: Path) -> None:
    approval = asked(notes, 150)
    decision: Any = "happened"
    with pytest.raises(Undecidable, match="A plan is approved"):
        Decide(reviewer(), decision, approval.plan_hash).run(approval.pk)


# --- What was altered -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", [{"calls": [{"id": "1", "tool": "test_pay", "arguments": {}}]}, {"x": 1}, [], "plan"])
def test_a_plan_that_was_altered_while_it_waited_can_only_be_rejected(notes: Path, plan: Any) -> None:
    approval = asked(notes, 150)
    Approval.objects.filter(pk=approval.pk).update(plan=plan)
    with pytest.raises(Undecidable, match="only be rejected"):
        Decide(reviewer(), "approve", approval.plan_hash).run(approval.pk)
    Decide(reviewer(), "reject", approval.plan_hash, "who was that?").run(approval.pk)
    assert isinstance(carry_on(), Succeeded)
    assert paid(notes) == []


def test_what_no_run_waits_for_is_not_decided(notes: Path) -> None:
    approval = asked(notes, 150)
    Wait.objects.filter(job_id=approval.run_id).delete()
    with pytest.raises(AlreadyDecided, match="does not wait"):
        Decide(reviewer(), "approve", approval.plan_hash).run(approval.pk)
    assert (fresh(approval).state, votes(approval)) == ("pending", [])


# --- The trail ------------------------------------------------------------------------------------------------------


def test_the_trail_says_who_approved_what(notes: Path) -> None:
    load(config("quorum: 2"))
    Group.objects.get_or_create(name="reviewer")
    approval = asked(notes, 150)
    Decide(reviewer("rita"), "approve", approval.plan_hash, "fine").run(approval.pk)
    Decide(reviewer("rolf"), "approve", approval.plan_hash, way="api").run(approval.pk)
    entries = AuditEntry.objects.filter(target_id=str(approval.pk)).order_by("id")
    assert [(entry.actor_name, entry.action) for entry in entries] == [
        ("astra", "approval.request"),
        ("rita", "approval.vote"),
        ("rolf", "approval.vote"),
        ("rolf", "approval.decide"),
    ]
    asked_for, first, second, decided = (entry.after or {} for entry in entries)
    assert (asked_for["tools"], asked_for["amount_usd"], asked_for["quorum"]) == (["test_pay"], "150.00", 2)
    assert {entry["plan_hash"] for entry in (asked_for, first, second, decided)} == {approval.plan_hash}
    assert {entry["run"] for entry in (asked_for, first, second, decided)} == {str(approval.run_id)}
    assert (first["way"], second["way"], decided["by"]) == ("site", "api", ["rita", "rolf"])
