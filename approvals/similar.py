"""Earlier decisions on plans like this one."""

from __future__ import annotations

from dataclasses import dataclass

from django.contrib.auth.models import User

from accounts import roles
from approvals.locking import why_not
from approvals.models import Approval

SHOWN = 5
#: They are looked for among so many of the agent's last requests.
AMONG = 300


@dataclass(frozen=True, slots=True)
class Earlier:
    """One of them. Who may not see it is told how it ended, not what was said."""

    approval: Approval
    is_visible: bool


def earlier_decisions(approval: Approval, user: User) -> list[Earlier]:
    """Return the last requests of the same agent, for the same tools, that somebody decided."""
    recent = Approval.objects.filter(agent=approval.agent, pk__lt=approval.pk).order_by("-pk").values("pk")[:AMONG]
    found = (
        Approval.objects.filter(pk__in=recent, kind=approval.kind, tools__contained_by=approval.tools)
        .filter(tools__contains=approval.tools)
        .exclude(state=Approval.State.PENDING)
        .exclude(decision="")
        .exclude(run=approval.run_id)
        .defer("plan", "asked_plan")
        .order_by("-pk")[:SHOWN]
    )
    sees_all = roles.is_operator(user)
    return [Earlier(one, sees_all or not why_not(one, user)) for one in found]
