"""Who has had which version of a plan before their eyes."""

from __future__ import annotations

from django.contrib.auth.models import User
from django.db import transaction

from approvals.models import Approval, Viewing
from audit import trail
from audit.trail import Actor


def saw(actor: Actor, approval: Approval) -> bool:
    """Record that a person looks at the plan as it stands; return whether it is the first time.

    Looking again at the same version records nothing.
    """
    user = actor.user
    if not isinstance(user, User):
        return False
    with transaction.atomic():
        _, is_first = Viewing.objects.get_or_create(approval=approval, user=user, plan_hash=approval.plan_hash)
        if is_first:
            after = {"plan_hash": approval.plan_hash, "run": str(approval.run_id)}
            trail.record(actor, "approval.view", "approval", approval.pk, after=after)
    return is_first
