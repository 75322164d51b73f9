"""When nobody answers: escalate, and at the deadline do what the policy says. Never approve.

All there is to know is in the rows: a restart, an outage or a sweep that dies in the middle loses nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from uuid import UUID

from django.db import transaction
from django.db.models import Q, QuerySet
from django.db.models.functions import Now

from agents.approval_rules import Rule
from approvals.deciding import plan_of, settle
from approvals.errors import UnknownApproval
from approvals.locking import locked
from approvals.models import Approval
from approvals.quorum import demand, demands_of
from approvals.terms import Demand, everybody, terms_of
from audit import trail
from audit.trail import SYSTEM
from jobs.reconcile import is_outage

logger = logging.getLogger(__name__)

SWEEP_EVERY_S = 1.0
#: One turn of the sweep does so many of each kind at most, and begins none after this time: others sweep as well.
PAGE = 200
TURN_S = 1.0
#: A request that fails is put off, longer each time, so that it holds up no others and does not fill the log.
PUT_OFF_S = 5.0
MAX_PUT_OFF_S = 600.0


class Deadlines:
    """One process's sweep over deadlines and escalations. Any number of them may run at once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        #: By request that failed when it is tried again, and after how long the next time.
        self._put_off: dict[UUID, tuple[float, float]] = {}

    def sweep(self) -> int:
        """Do what is due; return how many requests that was."""
        self._stop_at = self._clock() + TURN_S
        self._forget()
        pending = Approval.objects.pending()
        expired = self._each(pending.filter(deadline__lte=Now()).order_by("deadline"), _expire)
        return expired + self._each(pending.filter(escalate_at__lte=Now()).order_by("escalate_at"), _escalate)

    def _each(self, due: QuerySet[Approval], deed: Callable[[Approval], None]) -> int:
        now, done = self._clock(), 0
        off = [approval_id for approval_id, (until, _) in self._put_off.items() if until > now]
        for approval_id in list(due.exclude(pk__in=off).values_list("pk", flat=True)[:PAGE]):
            try:
                done += _do(approval_id, due, deed)
                self._put_off.pop(approval_id, None)
            except Exception as error:
                if is_outage(error):
                    raise
                self._fail(approval_id)
            if self._clock() >= self._stop_at:
                break
        return done

    def _forget(self) -> None:
        """Forget of those put off what somebody has decided meanwhile."""
        if self._put_off:
            due = Approval.objects.pending().filter(Q(deadline__lte=Now()) | Q(escalate_at__lte=Now()))
            still = set(due.filter(pk__in=list(self._put_off)).values_list("pk", flat=True))
            self._put_off = {key: kept for key, kept in self._put_off.items() if key in still}

    def _fail(self, approval_id: UUID) -> None:
        _, delay_s = self._put_off.pop(approval_id, (0.0, PUT_OFF_S))
        self._put_off[approval_id] = (self._clock() + delay_s, min(delay_s * 2, MAX_PUT_OFF_S))
        logger.exception(
            "a deadline failed, and is tried again in %.0f s",
            delay_s,
            extra={"action": "deadline_failed", "approval": str(approval_id)},
        )


sweep = Deadlines().sweep


def _do(approval_id: UUID, due: QuerySet[Approval], deed: Callable[[Approval], None]) -> bool:
    """Do it in a transaction of its own, unless a decision or another scheduler came first."""
    with transaction.atomic():
        try:
            approval = locked(approval_id)
        except UnknownApproval:
            return False
        # Judged again under the lock.
        if not due.filter(pk=approval_id).exists():
            return False
        deed(approval)
    return True


def _expire(approval: Approval) -> None:
    if approval.auto_action == "escalate" and approval.escalate_to:
        _hand_over(approval)
        return
    plan = plan_of(approval, as_asked=True)
    if approval.auto_action == "return":
        comment = "Nobody decided in time. Ask again with another plan, or go on without it."
        settle(approval, "request_changes", plan, SYSTEM, by=[], comment=comment, state="expired")
    else:
        settle(approval, "reject", plan, SYSTEM, by=[], comment="Nobody decided in time.", state="expired")


def _hand_over(approval: Approval) -> None:
    """Let the other group alone decide, for as long as those had who were asked first. After that it is rejected."""
    assert approval.deadline is not None
    terms = terms_of([Rule.from_json(rule) for rule in approval.rules])
    span = approval.deadline - approval.created_at
    # From now on: an outage is nobody's time.
    approval.deadline = approval.sort_at = approval.locked_at + span
    approval.remind_at = approval.deadline - terms.remind if terms.remind and terms.remind < span else None
    approval.auto_action = "reject"
    approval.claimed_by, approval.claimed_until = None, None
    _escalate_to(approval, [replace(one, groups=(approval.escalate_to,), users=()) for one in demands_of(approval)])


def _escalate(approval: Approval) -> None:
    """Let another group decide as well: those who were asked first still may."""
    to = approval.escalate_to
    _escalate_to(approval, [replace(one, groups=everybody([one.groups, [to]])) for one in demands_of(approval)])


def _escalate_to(approval: Approval, demands: Sequence[Demand]) -> None:
    before = {"groups": approval.groups, "users": approval.users}
    demand(approval, demands)
    approval.escalate_at, approval.escalated_at, approval.told_at = None, approval.locked_at, None
    approval.save(update_fields=_ESCALATED)
    after = {"groups": approval.groups, "users": approval.users, "run": str(approval.run_id)}
    if approval.deadline is not None:
        after["deadline"] = approval.deadline.isoformat()
    trail.record(SYSTEM, "approval.escalate", "approval", approval.pk, before=before, after=after)


_ESCALATED = (
    *("groups", "users", "quorum", "demands", "deadline", "sort_at", "remind_at", "auto_action"),
    *("escalate_at", "escalated_at", "told_at", "claimed_by", "claimed_until"),
)
