"""The small shop, with a few orders in it, and runs of the shipped agents that sell and publish."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib.auth.models import User

from agents.invoke import invoke
from agents.models import Run, ShopOrder, ShopRefund
from audit.trail import SYSTEM
from tests.support.people import person

#: The file that is shipped.
SHIPPED = Path(settings.BASE_DIR) / "astra.yml"


def order(number: str = "A-1001", paid: str = "180.00", item: str = "A burr grinder") -> ShopOrder:
    """Sell something."""
    return ShopOrder.objects.create(number=number, customer="Ann Olsen", item=item, paid_usd=Decimal(paid))


def refunds() -> list[tuple[str, Decimal]]:
    """Return what was paid back, in order."""
    return list(ShopRefund.objects.order_by("pk").values_list("order_id", "amount_usd"))


def start(endpoint: str, given: Any, user: User | None = None) -> UUID:
    """Submit a task."""
    return invoke(endpoint, given, user=user or person("ulla", "user"), actor=SYSTEM).run_id


def output(run_id: UUID) -> dict[str, Any]:
    """Return what a run came to."""
    found = Run.objects.get(pk=run_id).output
    assert isinstance(found, dict)
    return found
