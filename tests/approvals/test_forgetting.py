"""What was said in a conversation that is deleted goes from its requests as well."""

from __future__ import annotations

import json

import pytest
from django.core.serializers import serialize

from agents.chat.forgetting import forget
from agents.models import Effect
from approvals.models import Approval, Vote
from jobs import script
from jobs.models import Wait
from tests.support.approvals import approval, fresh
from tests.support.configs import loaded
from tests.support.people import person

pytestmark = pytest.mark.django_db

_config = loaded()
SECRET = "the emerald is under the third step"


def test_requests_votes_effects_and_decisions_forget_and_who_decided_stays() -> None:
    of = approval(
        {"tool": "tell", "arguments": {"what": SECRET}},
        state="approved",
        title=SECRET,
        reason=SECRET,
        comment=SECRET,
        rules=[],
        amount_usd=5,
    )
    Vote.objects.create(approval=of, user=person("rita"), user_name="rita", plan={"x": SECRET}, comment=SECRET)
    Wait.objects.create(job_id=of.run_id, kind="person", key="k", result={"plan": SECRET})
    Effect.objects.create(
        run=of.run, key="k", step_key="s", tool="tell", arguments={"what": SECRET}, result=SECRET, note=SECRET,
        idempotent=True, state="started", fence=1,
    )  # fmt: skip
    other = approval(title="Another")

    script.run(forget([of.run_id]))

    rows = [serialize("json", kind.objects.all()) for kind in (Approval, Vote, Effect, Wait)]
    assert SECRET not in json.dumps(rows)
    found = fresh(of)
    assert (found.title, found.decision, found.decided_by) == ("(deleted)", "approve", ["rita"])
    assert fresh(other).title == "Another"
