"""Who is on a request: a claim for a while, so that two do not read the same one; handing it to somebody else."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from uuid import UUID

from django.contrib.auth.models import User
from django.db import transaction

from approvals import notices
from approvals.comments import comment_of
from approvals.errors import Undecidable
from approvals.locking import holder, locked, refuse_claimed, refuse_decided, refuse_others
from approvals.models import Approval
from approvals.quorum import demand, demands_of, is_of
from approvals.terms import Demand
from audit import trail
from audit.trail import Actor

#: How long a claim holds. A page that stays open renews it.
LEASE = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Claim:
    """Take a request to read it. Renews a claim of one's own; another's is taken over only if asked for."""

    actor: Actor
    take_over: bool = False

    def run(self, approval_id: UUID) -> Approval:
        """Claim.

        Raises:
            UnknownApproval, AlreadyDecided, MayNot; Claimed: somebody else has it.
        """
        user = self.actor.user
        assert isinstance(user, User)
        with transaction.atomic():
            approval = locked(approval_id)
            refuse_others(approval, user)
            refuse_decided(approval)
            before = holder(approval)
            if not self.take_over:
                refuse_claimed(approval, user)
            approval.claimed_by, approval.claimed_until = user, approval.locked_at + LEASE
            approval.save(update_fields=["claimed_by", "claimed_until"])
            if before != user:  # renewing says nothing new
                trail.record(
                    self.actor,
                    "approval.claim",
                    "approval",
                    approval.pk,
                    before={"claimed_by": before.get_username()} if before else None,
                    after={"run": str(approval.run_id)},
                )
        return approval


@dataclass(frozen=True, slots=True)
class Release:
    """Give a claim of one's own back. Giving back what one does not have is harmless."""

    actor: Actor

    def run(self, approval_id: UUID) -> Approval:
        """Release.

        Raises:
            UnknownApproval: there is none.
        """
        user = self.actor.user
        assert isinstance(user, User)
        with transaction.atomic():
            approval = locked(approval_id)
            if approval.claimed_by_id == user.pk:  # even if they may not decide any more
                approval.claimed_by, approval.claimed_until = None, None
                approval.save(update_fields=["claimed_by", "claimed_until"])
                trail.record(
                    self.actor, "approval.release", "approval", approval.pk, after={"run": str(approval.run_id)}
                )
        return approval


@dataclass(frozen=True, slots=True)
class Delegate:
    """Let somebody decide in one's place, and hand them the claim. They are told of it. Both votes count as one."""

    actor: Actor
    #: A user name.
    to: str
    note: str = ""

    def run(self, approval_id: UUID) -> Approval:
        """Delegate.

        Raises:
            UnknownApproval, AlreadyDecided, MayNot; Undecidable: there is no such person, or they may not either.
            Claimed: somebody else has it.
        """
        user = self.actor.user
        assert isinstance(user, User)
        note = comment_of(self.note)
        with transaction.atomic():
            approval = locked(approval_id)
            refuse_others(approval, user)
            refuse_decided(approval)
            refuse_claimed(approval, user)
            to = User.objects.filter(username=self.to.replace("\0", ""), is_active=True).first()
            if to is None:
                raise Undecidable(f"There is nobody called {self.to!r}.")
            if to == user:
                raise Undecidable("It is yours to decide already.")
            if approval.not_own and approval.requested_by_id == to.pk:
                raise Undecidable(f"{to.username} asked for this, so {to.username} may not decide on it.")
            demands = demands_of(approval)
            wider = [_with(one, user, to) for one in demands]
            if wider != list(demands):
                demand(approval, wider)
                # Else a quorum would be met by one person and whomever they name.
                approval.delegated = {**approval.delegated, to.username: user.username}
            approval.claimed_by, approval.claimed_until = to, approval.locked_at + LEASE
            approval.save(update_fields=["users", "demands", "delegated", "claimed_by", "claimed_until"])
            notices.tell_delegate(approval, to, user.username)
            trail.record(
                self.actor,
                "approval.delegate",
                "approval",
                approval.pk,
                note=note,
                after={"to": to.username, "run": str(approval.run_id)},
            )
        return approval


def _with(demand: Demand, giver: User, to: User) -> Demand:
    """Return a demand that somebody may meet as well, if it is the giver's own to meet."""
    return (
        replace(demand, users=(*demand.users, to.username))
        if is_of(demand, giver) and not is_of(demand, to)
        else demand
    )
