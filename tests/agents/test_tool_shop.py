"""The tools `order_lookup` and `refund`: no more goes back than was paid, whoever asks and however often at once."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest
from django.db import IntegrityError, transaction

from agents.models import ShopOrder, ShopRefund
from agents.runtime.ports import ToolContext
from agents.tools.database import in_database
from agents.tools.registry import Refused
from agents.tools.shop import order_lookup, refund
from tests.support.shop import order, refunds

pytestmark = pytest.mark.django_db(transaction=True)


def by(approval: str = "") -> ToolContext:
    return ToolContext(
        run_id="r", user_id=None, agent="refunds", step_key="s", idempotency_key="k", approval_id=approval
    )


async def test_an_order_is_found_however_its_number_is_written() -> None:
    await in_database(order)
    for number in ("A-1001", " a-1001 ", "#A-1001"):
        assert (await order_lookup(number))["left_usd"] == 180


async def test_a_refund_is_in_the_books_with_its_run_and_its_decision() -> None:
    await in_database(order)
    made = await refund("a-1001", 120.5, "Broken", by("an-approval"))
    assert made["left_usd"] == 59.5
    row = await ShopRefund.objects.aget(pk=made["refund"])
    assert (row.amount_usd, row.reason, row.run_id, row.approval_id) == (
        Decimal("120.50"),
        "Broken",
        "r",
        "an-approval",
    )
    found = await order_lookup("A-1001")
    assert (found["refunded_usd"], found["refunds"][0]["amount_usd"]) == (120.5, 120.5)


@pytest.mark.parametrize(
    ("number", "amount", "slug"),
    [("A-1001", 180.01, "more-than-paid"), ("A-1001", 1.001, "not-an-amount"), ("A-7", 1.0, "no-such-order")],
)
async def test_what_cannot_be_refunded_is_refused_in_words(number: str, amount: float, slug: str) -> None:
    await in_database(order)
    with pytest.raises(Refused) as refused:
        await refund(number, amount, "Broken", by("an-approval"))
    assert refused.value.slug == slug
    assert await in_database(refunds) == []


async def test_of_many_refunds_at_once_only_as_many_are_paid_as_there_is_money() -> None:
    await in_database(order)
    tries = [refund("A-1001", 50.0, "Broken", by(f"approval-{number}")) for number in range(8)]
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(result, dict) for result in results) == 3
    assert {result.slug for result in results if isinstance(result, Refused)} == {"more-than-paid"}
    assert await in_database(refunds) == [("A-1001", Decimal(50))] * 3


async def test_small_refunds_without_a_decision_do_not_add_up() -> None:
    await in_database(order)
    await refund("A-1001", 90.0, "Broken", by())
    with pytest.raises(Refused, match="needs a person's decision"):
        await refund("A-1001", 90.0, "Broken", by())
    await refund("A-1001", 90.0, "Broken", by("an-approval"))


def test_the_database_itself_refuses_to_pay_back_more_than_was_paid() -> None:
    sold = order()
    with pytest.raises(IntegrityError, match="shop_order_refund_within_paid"), transaction.atomic():
        ShopOrder.objects.filter(pk=sold.pk).update(refunded_usd=Decimal("180.01"))
    with pytest.raises(IntegrityError, match="shop_refund_is_positive"), transaction.atomic():
        ShopRefund.objects.create(order=sold, amount_usd=Decimal(-5), reason="Back to us", run_id="r")
