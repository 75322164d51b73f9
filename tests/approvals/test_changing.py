"""What a reviewer may put into a plan."""

from __future__ import annotations

from typing import Any

import pytest

from agents.runtime.plans import Plan, PlannedCall
from approvals.changing import changed
from approvals.errors import Undecidable
from tests.support.approvals import config
from tests.support.configs import loaded

pytestmark = pytest.mark.django_db

_config = loaded(config())

_PLAN = Plan(calls=(PlannedCall(id="1", tool="test_pay", arguments={"file": "f", "amount_usd": 150}),))


def with_amount(amount: Any) -> Plan:
    return changed(_PLAN, [{"id": "1", "arguments": {"file": "f", "amount_usd": amount}}])


@pytest.mark.parametrize("amount", [True, False])
def test_true_and_false_are_no_numbers(amount: bool) -> None:
    with pytest.raises(Undecidable, match="amount_usd: a number is wanted"):
        with_amount(amount)


@pytest.mark.parametrize("amount", [1, 0.5, "120"])
def test_numbers_stay_as_they_were_written(amount: Any) -> None:
    assert with_amount(amount).calls[0].arguments["amount_usd"] == amount
