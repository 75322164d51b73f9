"""Who has had which version of a plan before their eyes."""

from __future__ import annotations

import pytest

from approvals.viewing import saw
from audit.models import AuditEntry
from audit.trail import SYSTEM
from tests.approvals.test_decision_page import _config as _config
from tests.approvals.test_decision_page import asks
from tests.support.approvals import reviewer

pytestmark = pytest.mark.django_db


def test_the_first_look_at_a_version_is_recorded_and_no_other() -> None:
    found = asks()
    rita = reviewer()
    assert saw(rita, found)
    assert not saw(rita, found)
    assert saw(reviewer("rolf"), found)
    found.plan_hash = "0" * 64
    assert saw(rita, found)
    entries = AuditEntry.objects.filter(action="approval.view").order_by("id")
    assert [entry.actor_name for entry in entries] == ["rita", "rolf", "rita"]
    assert entries[2].after == {"plan_hash": "0" * 64, "run": str(found.run_id)}


def test_astra_itself_has_no_eyes() -> None:
    found = asks()
    assert not saw(SYSTEM, found)
    assert not found.viewings.exists()
