"""The demo's data: orders of the shop, and tasks that wait for a reviewer. Made once, and at nobody's expense."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from agents import registry
from agents.models import Run, ShopOrder
from approvals.models import Approval
from astra_site import demo
from jobs.handlers import Parked
from tests.support.approvals import carry_on
from tests.support.configs import load
from tests.support.shop import SHIPPED

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _shipped(db: None) -> Iterator[None]:
    registry.load(SHIPPED)
    demo.create()
    yield
    registry.forget()


def test_a_newcomer_finds_a_refund_and_ten_posts_to_decide_on() -> None:
    demo.stock_shop()
    demo.submit_tasks()
    assert all(isinstance(carry_on(), Parked) for _ in demo.TASKS)
    refund, posts = Approval.objects.order_by("endpoint").reverse()
    assert (refund.endpoint, refund.amount_usd) == ("refund.v1", Decimal(240))
    assert len(posts.plan["calls"]) == 10
    assert {request.requested_by.username for request in (refund, posts) if request.requested_by} == {"user"}


def test_it_is_made_once() -> None:
    for _ in range(2):
        demo.stock_shop()
        demo.submit_tasks()
    assert ShopOrder.objects.count() == len(demo.ORDERS)
    assert Run.objects.count() == len(demo.TASKS)


def test_nothing_is_submitted_that_a_real_model_would_be_paid_for(settings: Any) -> None:
    settings.ASTRA_MODEL, settings.ANTHROPIC_API_KEY = "", "a-key"
    demo.submit_tasks()
    assert not Run.objects.exists()


def test_a_site_with_agents_of_its_own_gets_no_tasks_of_the_demo() -> None:
    load()
    demo.submit_tasks()
    assert not Run.objects.exists()
