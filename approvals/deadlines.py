"""When nobody answers: remind, escalate, and at the deadline do what the policy says. Never approve."""

from __future__ import annotations

import logging
from collections.abc import Callable

from django.db import transaction
from django.db.models import QuerySet
from django.db.models.functions import Now
from django.utils import timezone

from agents.runtime.plans import Plan
from approvals.deciding import settle
from approvals.errors import UnknownApproval
from approvals.locking import locked
from approvals.models import Approval
from audit import trail
from audit.trail import SYSTEM

logger = logging.getLogger(__name__)

SWEEP_EVERY_S = 1.0
#: One turn of the sweep does so many of each kind at most.
PAGE = 200


def sweep() -> int:
    """Do what is due; return how many requests that was. Safe to run any number of times at once."""
    pending = Approval.objects.pending()
    expired = _each(pending.filter(deadline__lte=Now()).order_by("deadline"), _expire)
    return expired + _each(pending.filter(escalate_at__lte=Now()).order_by("escalate_at"), _escalate)


def _each(due: QuerySet[Approval], deed: Callable[[Approval], None]) -> int:
    done = 0
    # Judged again under the lock: a decision, or another scheduler, may have come first.
    for approval_id in list(due.values_list("pk", flat=True)[:PAGE]):
        try:
            with transaction.atomic():
                approval = locked(approval_id)
                if due.filter(pk=approval_id).exists():
                    deed(approval)
                    done += 1
        except UnknownApproval:
            continue
        except Exception:
            logger.exception("a deadline failed", extra={"action": "deadline_failed", "approval": str(approval_id)})
    return done


def _expire(approval: Approval) -> None:
    if approval.auto_action == "escalate" and approval.escalate_to:
        # The new group gets the time that the old one had; after it the request is rejected.
        approval.auto_action = "reject"
        _hand_up(approval, [approval.escalate_to])
        assert approval.deadline is not None
        approval.deadline += approval.deadline - approval.created_at
        approval.sort_at = approval.deadline
        approval.save()
        return
    plan = Plan.model_validate(approval.asked_plan)
    if approval.auto_action == "return":
        comment = "Nobody decided in time. Ask again with another plan, or go on without it."
        settle(approval, "request_changes", plan, SYSTEM, by=[], comment=comment, state="expired")
    else:
        settle(approval, "reject", plan, SYSTEM, by=[], comment="Nobody decided in time.", state="expired")


def _escalate(approval: Approval) -> None:
    """Let another group decide as well: those who were asked first still may."""
    _hand_up(approval, [*approval.groups, approval.escalate_to])
    approval.save()


def _hand_up(approval: Approval, groups: list[str]) -> None:
    before = approval.groups
    approval.groups = list(dict.fromkeys(groups))
    approval.escalate_at, approval.escalated_at, approval.told_at = None, timezone.now(), None
    trail.record(
        SYSTEM,
        "approval.escalate",
        "approval",
        approval.pk,
        before={"groups": before},
        after={"groups": approval.groups, "run": str(approval.run_id)},
    )
