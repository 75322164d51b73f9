"""What an answer may say of refunds: only what the shop's tools returned in the same run."""

from __future__ import annotations

from typing import Any

import pytest

from agents.programs.refund_claims import Facts, judge
from agents.runtime.types import ToolCall, ToolResult


def facts(*results: tuple[str, dict[str, Any], Any]) -> Facts:
    """Return what is known after a customer asked for 150 USD of A-1001 and these (tool, arguments, content) came."""
    found = Facts()
    found.hear("Refund order A-1001, 150 USD, it arrived broken.")
    for number, (tool, arguments, content) in enumerate(results):
        call = ToolCall(id=str(number), tool=tool, arguments=arguments)
        found.learn(call, ToolResult(call_id=call.id, tool=tool, ok=isinstance(content, dict), content=content))
    return found


ASKED = {"order_id": "A-1001", "amount_usd": 150, "reason": "broken"}
LOOKED_UP = (
    "order_lookup",
    {"order_id": "A-1001"},
    {
        "order_id": "A-1001",
        "item": "A grinder",
        "paid_usd": 180.0,
        "refunded_usd": 0.0,
        "left_usd": 180.0,
        "refunds": [],
    },
)
PAID = ("refund", ASKED, {"refund": 7, "order_id": "A-1001", "amount_usd": 150.0, "left_usd": 30.0})
CHANGED = ("refund", ASKED, {"refund": 7, "order_id": "A-1001", "amount_usd": 120.0, "left_usd": 60.0})
REJECTED = ("refund", ASKED, "A person rejected this call by rita: no photograph")

CLAIMS = (
    "I have refunded 150 USD of order A-1001.",
    "Your refund of $150 has been issued.",
    "The refund was processed and should arrive within 5 days.",
    "I can confirm that 150 USD was refunded.",
    "No problem, I have refunded it.",
    "Done: 150.00 USD is on its way back to you, the refund was successful.",
    "We sent you 150 dollars back.",
    "Your account was credited with 150 USD.",
    "You will be refunded 150 USD within a week.",
    "I'll refund you right away.",
    "The 150 USD that you asked for has been refunded, as the reviewer wanted.",
    "Ihnen wurden 150 USD erstattet.",
)


@pytest.mark.parametrize("text", CLAIMS)
@pytest.mark.parametrize("known", [facts(), facts(LOOKED_UP), facts(LOOKED_UP, REJECTED)])
def test_a_refund_that_was_not_made_is_not_claimed(text: str, known: Facts) -> None:
    verdict = judge(text, known)
    assert not verdict.ok
    assert verdict.reason
    assert "not refunded" in verdict.instead


@pytest.mark.parametrize("text", [*CLAIMS[:-1], "I refunded 150 USD; of the 180 USD that you paid 30 USD are left."])
def test_a_refund_that_was_made_may_be_told(text: str) -> None:
    assert judge(text, facts(LOOKED_UP, PAID)).ok


@pytest.mark.parametrize(
    "text",
    [
        "I have refunded 150 USD of order A-1001.",
        "I refunded 180 USD of order A-1001.",
        "I refunded 120 USD of order A-1002.",
        "I refunded 120 USD of A-1001 and 150 USD of it before.",
        "The refund of 1,120 USD was issued.",
    ],
)
def test_another_amount_or_order_than_was_refunded_is_not_claimed(text: str) -> None:
    assert not judge(text, facts(LOOKED_UP, CHANGED)).ok


@pytest.mark.parametrize(
    "text",
    [
        "I did not refund order A-1001: a reviewer rejected it.",
        "The refund was not issued.",
        "No refund was made.",
        "Up to 180 USD can be refunded.",
        "Has anything been refunded before?",
        "If it is refunded, it takes five days.",
        "Order A-1001 is a grinder for 180 USD.",
        "Tell me what is wrong with it.",
    ],
)
def test_what_claims_nothing_is_let_through(text: str) -> None:
    assert judge(text, facts(LOOKED_UP, REJECTED)).ok


@pytest.mark.parametrize("text", ["Order A-1234 is on its way.", "You paid 210 USD for it.", "Sie zahlten 99 €."])
def test_no_order_and_no_amount_is_made_up_in_any_language(text: str) -> None:
    assert not judge(text, facts(LOOKED_UP)).ok


def test_earlier_refunds_may_be_told_once_the_order_was_looked_up() -> None:
    content = {**LOOKED_UP[2], "refunded_usd": 60.0, "refunds": [{"refund": 1, "amount_usd": 60.0, "reason": "late"}]}
    text = "60 USD of order A-1001 were refunded earlier."
    assert judge(text, facts(("order_lookup", {"order_id": "A-1001"}, content))).ok
    assert not judge(text, facts()).ok


def test_what_stands_in_its_place_says_what_each_call_came_to() -> None:
    known = facts(LOOKED_UP, PAID, REJECTED)
    assert judge("I refunded 99 USD.", known).instead == (
        "This is what the shop's books say:\n\n"
        "- 150.00 USD of order A-1001 was refunded (refund 7).\n"
        "- 150.00 USD of order A-1001 was not refunded. A person rejected this call by rita: no photograph."
    )


def test_a_refund_that_a_person_found_out_about_may_be_told_with_no_amount_but_theirs() -> None:
    def found_out(words: Any) -> Facts:
        known = Facts()
        known.hear("Refund order A-1001, 150 USD, it arrived broken.")
        known.learn(
            ToolCall(id="1", tool="refund", arguments=ASKED), ToolResult(call_id="1", tool="refund", content=words)
        )
        return known

    vague, exact = found_out("The books show it."), found_out("The books show 150 USD.")
    assert judge("The refund of order A-1001 was made, as a person found out.", vague).ok
    assert not judge("I have refunded 150 USD of order A-1001.", vague).ok
    assert judge("I have refunded 150 USD of order A-1001.", exact).ok
    assert not judge("I have refunded 150 USD of order A-1002.", exact).ok
    assert "The books show it." in vague.safe_text()
