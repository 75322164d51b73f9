"""The tools `order_lookup` and `refund`: the small shop of the example agent `refunds`, real rows in PostgreSQL."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

from django.db import transaction
from django.db.models import F
from pydantic import Field

from agents.models import ShopOrder, ShopRefund
from agents.runtime.ports import ToolContext
from agents.tools.database import in_database
from agents.tools.registry import Refused, tool

#: The largest refund that may be asked for at all.
MOST_USD = 100_000
CENT = Decimal("0.01")

Number = Annotated[str, Field(min_length=1, max_length=20)]


@tool(idempotent=True)
async def order_lookup(order_id: Number) -> dict[str, Any]:
    """Look up an order of the shop: what was bought, what was paid, and what was paid back of it so far.

    Args:
        order_id: The number of the order, like A-1001.
    """
    return await in_database(_look_up, order_id)


@tool(
    idempotent=False,
    batchable=False,
    effect=True,
    touches=("the shop's books", "the customer's money"),
    undoable=False,
)
async def refund(
    order_id: Number,
    amount_usd: Annotated[float, Field(gt=0, le=MOST_USD)],
    reason: Annotated[str, Field(min_length=1, max_length=500)],
    context: ToolContext,
) -> dict[str, Any]:
    """Pay money back to the customer of an order. This cannot be undone.

    Args:
        order_id: The number of the order, like A-1001.
        amount_usd: How much to pay back, in US dollars and cents. Never more than what is left of what was paid.
        reason: Why, in a sentence.
    """
    return await in_database(_refund, order_id, amount_usd, reason.replace("\x00", "").strip(), context)


def _look_up(order_id: str) -> dict[str, Any]:
    order = _order(order_id)
    refunds = [
        {"refund": refund.pk, "amount_usd": float(refund.amount_usd), "reason": refund.reason}
        for refund in order.refunds.order_by("pk")
    ]
    return {
        "order_id": order.number,
        "customer": order.customer,
        "item": order.item,
        "paid_usd": float(order.paid_usd),
        "refunded_usd": float(order.refunded_usd),
        "left_usd": float(order.paid_usd - order.refunded_usd),
        "refunds": refunds,
    }


def _refund(order_id: str, amount_usd: float, reason: str, context: ToolContext) -> dict[str, Any]:
    amount = Decimal(str(amount_usd))
    if amount != amount.quantize(CENT):
        raise Refused("not-an-amount", f"{amount_usd} USD is no amount of money: it has at most two decimals.")
    with transaction.atomic():
        order = _order(order_id)
        due = ShopOrder.objects.filter(pk=order.pk, refunded_usd__lte=F("paid_usd") - amount)
        if not context.approval_id:
            # Nobody splits a large refund into small ones that nobody looks at.
            due = due.filter(refunded_usd=0)
        if not due.update(refunded_usd=F("refunded_usd") + amount):
            order.refresh_from_db()
            raise _why_not(order, amount)
        made = ShopRefund.objects.create(
            order=order,
            amount_usd=amount,
            reason=reason,
            run_id=context.run_id,
            approval_id=context.approval_id,
        )
        order.refresh_from_db()
    return {
        "refund": made.pk,
        "order_id": order.number,
        "amount_usd": float(amount),
        "left_usd": float(order.paid_usd - order.refunded_usd),
    }


def _why_not(order: ShopOrder, amount: Decimal) -> Refused:
    left = order.paid_usd - order.refunded_usd
    if amount > left:
        return Refused(
            "more-than-paid",
            f"{amount:.2f} USD is more than what is left of order {order.number}: {order.paid_usd:.2f} USD were paid"
            f" and {order.refunded_usd:.2f} USD were paid back, so {left:.2f} USD are left.",
        )
    return Refused(
        "refunded-before",
        f"{order.refunded_usd:.2f} USD of order {order.number} were paid back before. A further refund of the same"
        " order needs a person's decision.",
    )


def _order(order_id: str) -> ShopOrder:
    number = order_id.replace("\x00", "").strip().lstrip("#").upper()
    found = ShopOrder.objects.filter(pk=number).first()
    if found is None:
        raise Refused("no-such-order", f"There is no order {number}. Ask the customer for its number.")
    return found
