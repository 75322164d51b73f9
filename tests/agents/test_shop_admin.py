"""The small shop in Django admin: to be read by admins, and changed by nobody."""

from __future__ import annotations

from decimal import Decimal

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from agents.models import ShopRefund
from tests.support.configs import loaded
from tests.support.shop import order
from tests.support.tasks import task

pytestmark = pytest.mark.django_db
_config = loaded()


@pytest.fixture
def root(client: Client) -> Client:
    client.force_login(User.objects.create_superuser("root"))
    return client


def test_orders_and_refunds_are_read_with_the_task_that_paid_them(root: Client) -> None:
    run = task("succeeded")
    refund = ShopRefund.objects.create(order=order(), amount_usd=Decimal(150), reason="Broken", run_id=str(run.pk))
    assert "A burr grinder" in root.get(reverse("admin:agents_shoporder_changelist")).content.decode()
    assert "Broken" in root.get(reverse("admin:agents_shoprefund_changelist")).content.decode()
    page = root.get(reverse("admin:agents_shoprefund_change", args=[refund.pk])).content.decode()
    assert reverse("task", args=[run.pk]) in page


@pytest.mark.parametrize("name", ["agents_shoporder", "agents_shoprefund"])
def test_nobody_writes_in_the_books_by_hand(root: Client, name: str) -> None:
    assert root.get(reverse(f"admin:{name}_add")).status_code == 403
    sold = order()
    key: object = sold.pk
    if name == "agents_shoprefund":
        key = ShopRefund.objects.create(order=sold, amount_usd=Decimal(1), reason="x", run_id=str(task().pk)).pk
    assert root.post(reverse(f"admin:{name}_change", args=[key]), {"_save": "1"}).status_code == 403
    assert root.post(reverse(f"admin:{name}_delete", args=[key]), {"post": "yes"}).status_code == 403
