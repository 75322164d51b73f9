"""Asking: what a parked run writes down for people, whatever is in its plan, and what it drops when it goes."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from django.contrib.auth.models import Group
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from agents import parked
from agents.invoke import invoke
from agents.models import Effect, Run
from agents.runtime.plain import plain
from agents.runtime.plans import Plan, PlannedCall
from approvals.asking import amount_of, ask, supersede, title_of
from approvals.deciding import Decide
from approvals.models import Approval
from approvals.quorum import shortage
from audit.models import AuditEntry
from audit.trail import SYSTEM
from jobs import script
from jobs.actions import Cancel, Redrive
from jobs.handlers import Parked, Succeeded, WaitFor
from jobs.models import Job, Wait
from tests.support.approvals import approval, asked, carry_on, config, fresh, paid, reviewer
from tests.support.configs import load, loaded
from tests.support.people import person

pytestmark = pytest.mark.django_db(transaction=True)

_config = loaded(config())


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes"


def story(approval: Approval) -> list[str]:
    """Return what the trail says of a request, oldest first."""
    entries = AuditEntry.objects.filter(target_type="approval", target_id=str(approval.pk)).order_by("id")
    return [entry.action.removeprefix("approval.") for entry in entries]


def made_of(plan: Plan, *, user: str = "user") -> Approval:
    """Write the request of a run for a plan, as the transaction does in which it parks."""
    run_id = invoke("pay.v1", {"file": "", "amounts": []}, user=person(user), actor=SYSTEM).run_id
    data = {"plan": plain(plan), "plan_hash": plan.hash, "reason": "why \0 and \ud800", "rules": []}
    script.run(ask(run_id, [WaitFor("person", "approve#1", None, data)]))
    return Approval.objects.get(run_id=run_id)


# --- Who can --------------------------------------------------------------------------------------------------------


def test_a_request_says_that_too_few_can_decide_on_it(notes: Path) -> None:
    load(config("quorum: 2"))
    person("rita", "reviewer")
    approval = asked(notes, 150)
    assert "2 people have to agree, and only 1 could when it was asked." in approval.reason
    assert "only 1 can" in shortage(approval)
    person("rolf", "reviewer")
    assert shortage(approval) == ""


def test_a_request_that_enough_can_decide_on_says_nothing_of_it(notes: Path) -> None:
    person("rita", "reviewer")
    assert asked(notes, 150).reason == "test_pay with amount_usd > 100"


def test_whoever_asked_is_none_of_those_who_can_where_the_policy_says_so(notes: Path) -> None:
    load(config("not_own: true"))
    assert "nobody could" in asked(notes, 150, user=person("rita", "reviewer")).reason


def test_closed_accounts_are_none_of_those_who_can(notes: Path) -> None:
    rita = person("rita", "reviewer")
    rita.is_active = False
    rita.save()
    assert "nobody could" in asked(notes, 150).reason


@pytest.mark.parametrize("who", ["admin", "superuser", "named"])
def test_admins_and_named_people_are_among_those_who_can(notes: Path, who: str) -> None:
    load(config("group: operator, users: [nina]"))
    user = person("nina" if who == "named" else "adam", *(["admin"] if who == "admin" else []))
    user.is_superuser = who == "superuser"
    user.save()
    approval = asked(notes, 150)
    assert shortage(approval) == ""
    Decide(reviewer(user.username, *[group.name for group in Group.objects.filter(user=user)] or ["user"]), "approve",
           approval.plan_hash).run(approval.pk)  # fmt: skip
    assert fresh(approval).state == "approved"


# --- What is in a plan ----------------------------------------------------------------------------------------------


HOSTILE = {
    "nothing": Plan(),
    "only a title": Plan(title="Go\0 \n on\u202e", summary="x" * 100_000),
    "no arguments": Plan(calls=(PlannedCall(id="1", tool="test_pay"),)),
    "a tool that there is not": Plan(calls=(PlannedCall(id="1", tool="t" * 5_000),)),
    "NULs": Plan(calls=(PlannedCall(id="1", tool="te\0st", arguments={"a\0": "b\0", "c": ["\ud800"]}),)),
    "much": Plan(calls=tuple(PlannedCall(id=str(n), tool="test_pay", arguments={"x": n}) for n in range(2_000))),
    "large": Plan(calls=(PlannedCall(id="1", tool="test_pay", arguments={"x": "y" * 1_000_000}),)),
    "huge numbers": Plan(
        calls=(PlannedCall(id="1", tool="test_pay", arguments={"amount_usd": "1e999999999", "n": 10**4000}),)
    ),
    "tiny numbers": Plan(calls=(PlannedCall(id="1", tool="test_pay", arguments={"amount_usd": "1e-999999999"}),)),
    "markup": Plan(calls=(PlannedCall(id="1", tool="%s", arguments={"%(run)s": "'; DROP TABLE x; --<script>"}),)),
}


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("name", HOSTILE)
def test_whatever_is_in_a_plan_it_is_asked_about_and_can_be_decided_on(name: str) -> None:
    approval = made_of(HOSTILE[name])
    assert approval.title
    assert "\0" not in approval.reason
    Wait.objects.create(job_id=approval.run_id, kind="person", key="approve#1")
    Decide(reviewer(), "approve", approval.plan_hash).run(approval.pk)
    assert fresh(approval).decision == "approve"
    assert Plan.model_validate(fresh(approval).plan).hash == approval.plan_hash


def test_deeply_nested_arguments_are_asked_about() -> None:
    approval = made_of(Plan(calls=(PlannedCall(id="1", tool="test_pay", arguments={"x": deep(100)}),)))
    assert approval.title == "Test pay"


@pytest.mark.parametrize(
    ("arguments", "amount"),
    [
        ({"amount_usd": 150}, "150.00"),
        ({"amount_usd": "$1,150.5"}, "1150.50"),
        ({"amount": "many", "usd": 2.5}, "2.50"),
        ({"amount_usd": True}, None),
        ({"amount_usd": "NaN"}, None),
        ({"amount_usd": "1e12"}, None),
        ({"amount_usd": [5]}, None),
        ({"amount_usd": "9" * 41}, None),
        ({}, None),
    ],
)
def test_the_amount_of_a_call_is_read_from_its_arguments(arguments: dict[str, Any], amount: str | None) -> None:
    assert amount_of([{"tool": "pay", "arguments": arguments}]) == (None if amount is None else Decimal(amount))


@given(st.lists(st.dictionaries(st.sampled_from(["amount_usd", "usd"]), st.integers() | st.floats() | st.text())))
def test_an_amount_always_fits_its_column(arguments: list[dict[str, Any]]) -> None:
    amount = amount_of([{"tool": "pay", "arguments": given} for given in arguments])
    assert amount is None or (abs(amount) < 10**15 and amount == amount.quantize(Decimal("0.01")))


def test_a_title_says_what_the_first_call_does() -> None:
    calls: list[dict[str, Any]] = [
        {"tool": "pay", "arguments": {"to": "ada\nb", "list": [1] * 1000, "usd": 5}},
        {"tool": "x"},
    ]
    assert title_of(None, calls) == "Pay: to ada b, $5.00 and 1 more"
    assert title_of({"title": " \n"}, calls) == "Pay: to ada b, $5.00 and 1 more"
    refund = {"tool": "refund", "arguments": {"order_id": "A-1", "amount_usd": 240.0, "reason": "It came broken."}}
    assert title_of(None, [refund]) == "Refund: order ID A-1, $240.00, It came broken."
    assert len(title_of({"title": "x" * 1000}, calls)) == 300


# --- Versions -------------------------------------------------------------------------------------------------------


def wait(key: str, plan: Plan) -> WaitFor:
    data = {"plan": plain(plan), "plan_hash": plan.hash, "reason": "", "rules": []}
    return WaitFor("person", key, None, data)


@pytest.mark.parametrize(
    ("first", "second", "follows"),
    [
        ("approve#1", "approve#2", True),
        ("0.1/approve#1", "0.1/approve#2", True),
        ("0.0/approve#1", "0.1/approve#1", False),
        ("approve calls 1#1", "approve calls 2#1", True),
        ("0.1/approve calls 1#1", "0.1/approve calls 3#1", True),
        ("approve#1", "approve calls 1#1", False),
        ("approve#1", "approve more#1", False),
    ],
)
def test_a_revised_plan_follows_the_one_of_its_own_line(first: str, second: str, follows: bool) -> None:
    run_id = invoke("pay.v1", {"file": "", "amounts": []}, user=person("user"), actor=SYSTEM).run_id
    plan = Plan(title="Go")
    Wait.objects.create(job_id=run_id, kind="person", key=first)
    # Beside it, another line asks: its request is newer.
    script.run(ask(run_id, [wait(first, plan), wait("9.9/other#1", plan)]))
    before = Approval.objects.get(run_id=run_id, wait_key=first)
    Decide(reviewer(), "request_changes", plan.hash, "shorter").run(before.pk)
    script.run(ask(run_id, [wait(second, plan)]))
    after = Approval.objects.get(run_id=run_id, wait_key=second)
    assert (after.version, after.revises_id) == ((2, before.pk) if follows else (1, None))


def test_asking_twice_for_one_wait_asks_once() -> None:
    run_id = invoke("pay.v1", {"file": "", "amounts": []}, user=person("user"), actor=SYSTEM).run_id
    for _ in range(2):
        script.run(ask(run_id, [wait("approve#1", Plan(title="Go"))]))
    assert Approval.objects.filter(run_id=run_id).count() == 1


def test_what_is_resolved_by_then_is_not_asked_for() -> None:
    run_id = invoke("pay.v1", {"file": "", "amounts": []}, user=person("user"), actor=SYSTEM).run_id
    Wait.objects.create(job_id=run_id, kind="person", key="approve#1", resolved_at=timezone.now())
    script.run(ask(run_id, [wait("approve#1", Plan(title="Go"))]))
    assert not Approval.objects.filter(run_id=run_id).exists()


def test_a_run_that_asks_nobody_pays_nothing_for_it(notes: Path) -> None:
    run_id = invoke("pay.v1", {"file": str(notes), "amounts": [20]}, user=person("user"), actor=SYSTEM).run_id
    with mock.patch.object(parked.hooks, "on_left") as left, mock.patch.object(parked.hooks, "on_parked") as asks:
        assert isinstance(carry_on(), Succeeded)
    assert paid(notes) == ["paid-20"]
    assert not left.called
    assert not asks.called
    assert not Approval.objects.filter(run_id=run_id).exists()


# --- What a run no longer waits for ---------------------------------------------------------------------------------


def test_a_cancelled_run_needs_no_answer(notes: Path) -> None:
    approval = asked(notes, 150)
    Cancel(SYSTEM).run(approval.run_id)
    found = fresh(approval)
    assert (found.state, found.decision) == ("superseded", "")
    assert story(approval) == ["request", "supersede"]


@pytest.mark.parametrize("from_", ["checkpoint", "start"])
def test_a_redriven_run_asks_again(notes: Path, from_: Any) -> None:
    first = asked(notes, 150)
    Cancel(SYSTEM).run(first.run_id)
    Redrive(SYSTEM, from_=from_).run(first.run_id)
    assert isinstance(carry_on(), Parked)
    second = Approval.objects.get(run_id=first.run_id, state="pending")
    assert (second.version, second.plan_hash) == (1, first.plan_hash)
    Decide(reviewer(), "approve", second.plan_hash).run(second.pk)
    assert isinstance(carry_on(), Succeeded)
    assert paid(notes) == ["paid-150"]


def test_a_run_that_parks_for_something_else_drops_what_it_asked(notes: Path) -> None:
    approval = asked(notes, 150)
    script.run(supersede(approval.run_id, [WaitFor("person", "another#1", None)]))
    assert fresh(approval).state == "superseded"


def test_a_run_that_still_waits_for_it_keeps_its_request(notes: Path) -> None:
    approval = asked(notes, 150)
    script.run(supersede(approval.run_id, [WaitFor("person", approval.wait_key, None)]))
    assert fresh(approval).state == "pending"


def test_a_request_that_goes_with_its_run_leaves_a_trace(notes: Path) -> None:
    approval = asked(notes, 150)
    Run.objects.get(pk=approval.run_id).delete()
    Job.objects.get(pk=approval.run_id).delete()
    assert not Approval.objects.filter(pk=approval.pk).exists()
    assert story(approval) == ["request", "supersede"]


def test_a_decided_request_that_goes_with_its_run_was_not_superseded(notes: Path) -> None:
    approval = asked(notes, 150)
    Decide(reviewer(), "reject", approval.plan_hash, "no").run(approval.pk)
    Run.objects.get(pk=approval.run_id).delete()
    assert story(approval) == ["request", "vote", "decide"]


# --- What became of a call ------------------------------------------------------------------------------------------


def test_whoever_might_not_decide_on_a_call_does_not_say_what_became_of_it_either() -> None:
    let = approval(state="approved", endpoint="pay.v1", not_own=True)
    Effect.objects.create(
        run=let.run,
        key="k",
        step_key="refund#1",
        tool="refund",
        arguments={},
        idempotent=False,
        state="started",
        fence=1,
        approval_id=let.pk,
    )
    data = {"effect": "k", "tool": "refund", "arguments": {}}
    script.run(ask(let.run_id, [WaitFor("person", "effect:k:1", None, data)]))
    assert Approval.objects.get(kind="effect").not_own
