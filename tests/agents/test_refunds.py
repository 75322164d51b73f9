"""The shipped agent `refunds`, as `astra.yml` declares it: what runs at once, what waits, and what it says of that."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import pytest

from agents import registry
from agents.models import Step
from approvals.deciding import Decide
from approvals.errors import MayNot
from approvals.models import Approval
from jobs.handlers import Parked, Succeeded
from tests.support.approvals import carry_on, fresh, reviewer
from tests.support.people import person
from tests.support.shop import SHIPPED, order, output, refunds, start

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _shipped(db: None) -> Iterator[None]:
    registry.load(SHIPPED)
    for name in ("rita", "rolf"):
        person(name, "reviewer")
    yield
    registry.forget()


def waiting(text: str) -> Approval:
    """Ask for a refund that waits, and return the request."""
    run_id = start("refund.v1", text)
    assert isinstance(carry_on(), Parked)
    return Approval.objects.get(run_id=run_id, state="pending")


def test_a_small_refund_is_paid_at_once() -> None:
    order()
    run_id = start("refund.v1", "Refund order A-1001, 99 USD, it arrived broken")
    assert isinstance(carry_on(), Succeeded)
    assert refunds() == [("A-1001", Decimal(99))]
    assert not Approval.objects.exists()
    found = output(run_id)
    assert found["refunds"][0]["amount_usd"] == 99
    assert "I refunded **99.00 USD** of order A-1001" in found["text"]


def test_what_is_left_is_refunded_where_no_amount_is_said() -> None:
    order(paid="49.90")
    start("refund.v1", {"message": "I want my money back for A-1001 because it is broken."})
    carry_on()
    assert refunds() == [("A-1001", Decimal("49.90"))]


def test_a_refund_over_100_usd_waits_for_a_reviewer_and_is_then_paid_once() -> None:
    order()
    request = waiting("Refund order A-1001, 150 USD, it arrived broken")
    assert refunds() == []
    assert (request.reason, request.quorum, request.not_own) == ("A refund over 100 USD", 1, True)
    assert request.amount_usd == 150
    (call,) = request.plan["calls"]
    assert call["arguments"]["reason"] == "It arrived broken."
    assert call["undoable"] is False
    Decide(reviewer(), "approve", request.plan_hash).run(request.pk)
    assert isinstance(carry_on(), Succeeded)
    assert refunds() == [("A-1001", Decimal(150))]
    assert "I refunded **150.00 USD**" in output(request.run_id)["text"]


def test_a_refund_over_1000_usd_needs_two_reviewers() -> None:
    order("A-1002", "1890.00")
    request = waiting("Refund order A-1002, 1,500 USD: the motor is dead")
    assert request.quorum == 2
    assert Decide(reviewer("rita"), "approve", request.plan_hash).run(request.pk).missing == 1
    assert refunds() == []
    Decide(reviewer("olga", "operator"), "approve", request.plan_hash).run(request.pk)
    assert isinstance(carry_on(), Succeeded)
    assert refunds() == [("A-1002", Decimal(1500))]


def test_nobody_approves_a_refund_that_they_asked_for() -> None:
    order()
    rita = person("rita", "reviewer", "user")
    run_id = start("refund.v1", "Refund order A-1001, 150 USD, broken", rita)
    carry_on()
    request = Approval.objects.get(run_id=run_id)
    with pytest.raises(MayNot, match="yourself"):
        Decide(reviewer("rita"), "approve", request.plan_hash).run(request.pk)


def test_a_rejected_refund_is_not_paid_and_the_customer_is_told_so() -> None:
    order()
    request = waiting("Refund order A-1001, 150 USD, it arrived broken")
    Decide(reviewer(), "reject", request.plan_hash, "Ask for a photograph first").run(request.pk)
    assert isinstance(carry_on(), Succeeded)
    assert refunds() == []
    found = output(request.run_id)
    assert found["refunds"] == []
    assert "I did not refund order A-1001" in found["text"]
    assert "Ask for a photograph first" in found["text"]


def test_what_a_reviewer_changed_is_what_is_paid_and_said() -> None:
    order()
    request = waiting("Refund order A-1001, 150 USD, it arrived broken")
    changed = {**request.plan["calls"][0]["arguments"], "amount_usd": 120}
    Decide(reviewer(), "approve_with_changes", request.plan_hash, calls=[{"id": "1", "arguments": changed}]).run(
        request.pk
    )
    carry_on()
    assert refunds() == [("A-1001", Decimal(120))]
    text = output(request.run_id)["text"]
    assert "I refunded **120.00 USD**" in text
    assert "You had asked for 150.00 USD. A reviewer changed the amount." in text


def test_the_agent_asks_again_with_what_a_reviewer_wants() -> None:
    order()
    request = waiting("Refund order A-1001, 150 USD, it arrived broken")
    Decide(reviewer(), "request_changes", request.plan_hash, "Offer them 110 USD").run(request.pk)
    assert isinstance(carry_on(), Parked)
    second = Approval.objects.get(run_id=request.run_id, state="pending")
    assert second.plan["calls"][0]["arguments"]["amount_usd"] == 110
    assert fresh(request).state == "superseded"


def test_more_than_was_paid_is_not_asked_for_and_nothing_is_claimed() -> None:
    order(paid="60.00")
    run_id = start("refund.v1", "Refund order A-1001, 90 USD, broken")
    assert isinstance(carry_on(), Succeeded)
    assert refunds() == []
    assert "I did not start a refund: at most 60.00 USD could be paid back." in output(run_id)["text"]


def test_an_order_is_not_refunded_twice_in_small_parts() -> None:
    order()
    for part in (90, 80):
        run_id = start("refund.v1", f"Refund order A-1001, {part} USD, broken")
        assert isinstance(carry_on(), Succeeded)
    assert refunds() == [("A-1001", Decimal(90))]
    assert "needs a person's decision" in output(run_id)["text"]


def test_an_order_that_is_not_there_is_said_not_to_be() -> None:
    run_id = start("refund.v1", "Refund order A-9999, 50 USD, broken")
    carry_on()
    assert "There is no order A-9999" in output(run_id)["text"]


def test_each_part_of_the_answer_is_judged_before_it_leaves() -> None:
    order()
    run_id = start("refund.v1", "What about order A-1001?")
    carry_on()
    kinds = list(Step.objects.filter(run=run_id).order_by("id").values_list("name", "kind"))
    assert kinds == [
        ("draft", "model"),
        ("order_lookup", "tool"),
        ("draft", "model"),
        ("verify answer", "step"),
        ("compose", "compose"),
    ]
    assert "A burr grinder, 180.00 USD" in output(run_id)["text"]


@pytest.mark.parametrize("asked", ["Hello!", "What can you do?", "What is the capital of France?", "Refund it please"])
def test_talk_that_is_about_no_order_is_let_through(asked: str) -> None:
    run_id = start("refund.v1", asked)
    carry_on()
    verdict = Step.objects.get(run=run_id, name="verify answer").output
    assert verdict == {"ok": True, "reason": "", "instead": ""}
    assert "refund an order" in output(run_id)["text"]
