"""The small shop of the example agent `refunds`: what was sold, and what was paid back of it."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now


class ShopOrder(models.Model):
    """One order. PostgreSQL itself sees to it that no more is paid back than was paid, whoever asks."""

    number = models.CharField(max_length=20, primary_key=True, help_text="As the customer knows it: A-1001.")
    customer = models.CharField(max_length=120)
    item = models.CharField(max_length=200)
    paid_usd = models.DecimalField(max_digits=10, decimal_places=2)
    refunded_usd = models.DecimalField(max_digits=10, decimal_places=2, default=0, help_text="The sum of its refunds.")
    ordered_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(paid_usd__gt=0), name="shop_order_was_paid"),
            models.CheckConstraint(
                condition=Q(refunded_usd__gte=0, refunded_usd__lte=F("paid_usd")),
                name="shop_order_refund_within_paid",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.number}: {self.item}"


class ShopRefund(models.Model):
    """Money that went back, and which run and decision let it."""

    order = models.ForeignKey(ShopOrder, on_delete=models.PROTECT, related_name="refunds")
    amount_usd = models.DecimalField(max_digits=10, decimal_places=2)
    reason = models.TextField()
    run_id = models.CharField(max_length=40, help_text="The run that asked for it.")
    approval_id = models.CharField(max_length=40, blank=True, help_text="The decision that let it; none was needed.")
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(amount_usd__gt=0), name="shop_refund_is_positive"),
        ]

    def __str__(self) -> str:
        return f"{self.amount_usd} USD of {self.order_id}"
