"""Who is on a request: a claim for a while, so that two do not read the same one; handing it to somebody else."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from approvals.errors import Claimed, Undecidable
from approvals.locking import locked, refuse_decided, refuse_others, why_not
from approvals.models import Approval
from audit import trail
from audit.trail import Actor
from jobs.actions import note_of

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
            now = timezone.now()
            holder = approval.claimed_by if approval.claimed_until and approval.claimed_until > now else None
            if holder is not None and holder != user and not self.take_over:
                raise Claimed(f"{holder.get_username()} is on it until {approval.claimed_until:%H:%M} UTC.")
            approval.claimed_by, approval.claimed_until = user, now + LEASE
            approval.save(update_fields=["claimed_by", "claimed_until"])
            if holder != user:  # renewing says nothing new
                before = {"claimed_by": holder.get_username()} if holder else None
                trail.record(
                    self.actor,
                    "approval.claim",
                    "approval",
                    approval.pk,
                    before=before,
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
            UnknownApproval, MayNot.
        """
        user = self.actor.user
        assert isinstance(user, User)
        with transaction.atomic():
            approval = locked(approval_id)
            refuse_others(approval, user)
            if approval.claimed_by_id == user.pk:
                approval.claimed_by, approval.claimed_until = None, None
                approval.save(update_fields=["claimed_by", "claimed_until"])
                trail.record(
                    self.actor, "approval.release", "approval", approval.pk, after={"run": str(approval.run_id)}
                )
        return approval


@dataclass(frozen=True, slots=True)
class Delegate:
    """Let somebody else decide as well, and hand them the claim. They are told of it."""

    actor: Actor
    #: A user name.
    to: str
    note: str = ""

    def run(self, approval_id: UUID) -> Approval:
        """Delegate.

        Raises:
            UnknownApproval, AlreadyDecided, MayNot; Undecidable: there is no such person, or they may not either.
        """
        user = self.actor.user
        assert isinstance(user, User)
        with transaction.atomic():
            approval = locked(approval_id)
            refuse_others(approval, user)
            refuse_decided(approval)
            to = User.objects.filter(username=self.to, is_active=True).first()
            if to is None:
                raise Undecidable(f"There is nobody called {self.to!r}.")
            if to == user:
                raise Undecidable("It is yours to decide already.")
            if to.username not in approval.users:
                approval.users = [*approval.users, to.username]
            if why_not(approval, to):
                raise Undecidable(f"{to.username} asked for this, so {to.username} may not decide on it.")
            approval.claimed_by, approval.claimed_until = to, timezone.now() + LEASE
            # Told again: by then they are one of those who may decide.
            approval.told_at = None
            approval.save(update_fields=["users", "claimed_by", "claimed_until", "told_at"])
            trail.record(
                self.actor,
                "approval.delegate",
                "approval",
                approval.pk,
                note=note_of(self.note),
                after={"to": to.username, "run": str(approval.run_id)},
            )
        return approval
