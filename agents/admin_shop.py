"""The small shop of the example agent `refunds` in Django admin: to be read."""

from __future__ import annotations

from uuid import UUID

from django.contrib import admin
from django.urls import reverse

from agents.models import ShopOrder, ShopRefund
from audit.history_admin import HistoryAdmin, Link, short_id


@admin.register(ShopOrder)
class ShopOrderAdmin(HistoryAdmin[ShopOrder]):
    """What was sold, and how much of it was paid back."""

    list_display = ("number", "customer", "item", "paid_usd", "refunded_usd", "ordered_at")
    search_fields = ("number__startswith", "customer__startswith")
    search_help_text = "The beginning of an order’s number or of a customer’s name"


@admin.register(ShopRefund)
class ShopRefundAdmin(HistoryAdmin[ShopRefund]):
    """What was paid back, by which run."""

    list_display = ("order", "amount_usd", "reason", "run", "created_at")
    list_select_related = ("order",)

    @admin.display(description="run", empty_value="–")
    def run(self, refund: ShopRefund) -> object:
        """Shorten the run's id."""
        return short_id(refund.run_id)

    def row_links(self, refund: ShopRefund) -> list[Link]:
        """Return the run that paid it back, and the decision that let it."""
        links = [(reverse("task", args=[UUID(refund.run_id)]), "Its task")]
        if refund.approval_id:
            links.append((reverse("approval", args=[UUID(refund.approval_id)]), "The decision"))
        return links
