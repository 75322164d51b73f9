"""Links in mails with which one person decides once without signing in, where the policy allows it.

A link is signed and bound to the request, the person and the plan. Its secret part is known to whoever has the mail;
the database keeps a digest of it, so that it can be used up. Making one decides nothing, opening one neither.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from django.contrib.auth.models import User
from django.core import signing
from django.db import transaction
from django.db.models.functions import Now
from django.utils import timezone

from agents.runtime.plans import Decision
from approvals.deciding import Decide, Outcome
from approvals.errors import AlreadyDecided, MayNot, PlanChanged
from approvals.locking import decided_words, why_not
from approvals.models import Approval, DecisionLink
from approvals.notice_words import address
from audit.trail import Actor

_SALT = "approvals.link"
#: Whatever is longer is no link of ours.
MAX_TOKEN = 600
#: What a link may say. Changes, and steps decided on one by one, need the page that one signs in to.
DECISIONS: tuple[Decision, ...] = ("approve", "request_changes", "reject")
#: So long after it has expired a link is still told apart from one that never was.
KEPT = timedelta(days=7)
SWEEP_EVERY_S = 3600.0
SWEPT = 5_000

#: A plan of more calls is read where one signs in: there it has its pages.
MAX_CALLS = 50


class LinkRefused(Exception):
    """The link does nothing any more, or never did. Its words are for whoever holds it."""

    def __init__(self, detail: str, status: int, approval_id: UUID | None = None) -> None:
        super().__init__(detail)
        self.status, self.approval_id = status, approval_id


@dataclass(frozen=True, slots=True)
class Held:
    """What a link that is good stands for."""

    row: DecisionLink
    approval: Approval
    user: User
    plan_hash: str


def allowed(approval: Approval) -> bool:
    """Tell whether the request can be decided on by a link at all."""
    return (
        approval.links
        and not approval.is_effect
        and approval.is_pending
        and not approval.flagged
        and len(approval.plan["calls"]) <= MAX_CALLS
        and approval.deadline is not None
        and approval.deadline > timezone.now()
    )


def make(approval: Approval, user: User) -> str:
    """Make a link for one person and return its whole address. It is good until the deadline."""
    assert approval.deadline is not None  # `allowed` says so
    nonce = secrets.token_urlsafe(18)
    DecisionLink.objects.create(approval=approval, user=user, digest=_digest(nonce), expires_at=approval.deadline)
    token = _signer().sign_object([approval.pk.hex, user.pk, approval.plan_hash, nonce])
    return address("approval-link", token)


def read(token: str) -> Held:
    """Return what a link stands for, if it is good now.

    Raises:
        LinkRefused: and why.
    """
    try:
        approval_hex, user_id, plan_hash, nonce = _signer().unsign_object(token[:MAX_TOKEN])
        row = DecisionLink.objects.select_related("approval", "user").get(
            digest=_digest(nonce), approval_id=UUID(approval_hex), user_id=user_id
        )
    except (signing.BadSignature, ValueError, TypeError, DecisionLink.DoesNotExist):
        raise LinkRefused("This is no link of ours, or a part of it is missing. Copy it whole.", 404) from None
    held = Held(row, row.approval, row.user, plan_hash)
    _refuse(held)
    return held


def decide(held: Held, decision: Decision, comment: str, actor: Actor) -> Outcome:
    """Decide as the person the link was made for, and use the link up.

    Raises:
        LinkRefused; and whatever `Decide` raises. Then nothing is changed.
    """
    approval = held.approval
    with transaction.atomic():
        outcome = Decide(actor, decision, held.plan_hash, comment, way="link").run(approval.pk)
        # All of the person's links for this request: a mail that was sent twice has two.
        used = DecisionLink.objects.filter(approval=approval, user=held.user, used_at=None).update(used_at=Now())
        if not used:
            raise _used(held)
    return outcome


def sweep() -> int:
    """Forget links that expired long ago; return how many."""
    old = DecisionLink.objects.filter(expires_at__lt=Now() - KEPT).order_by("pk").values("pk")[:SWEPT]
    return DecisionLink.objects.filter(pk__in=old).delete()[0]


def _refuse(held: Held) -> None:
    approval, user = held.approval, held.user
    if not user.is_active:
        raise LinkRefused("The account that this link was made for is no longer active.", 403)
    if held.row.used_at is not None:
        raise _used(held)
    if not approval.is_pending:
        raise LinkRefused(decided_words(approval), AlreadyDecided.status, approval.pk)
    if held.row.expires_at <= timezone.now():
        raise LinkRefused("This link has expired.", 410, approval.pk)
    if why := why_not(approval, user):
        raise LinkRefused(why, MayNot.status)
    if approval.plan_hash != held.plan_hash:
        words = "The plan was changed since this link was sent. Sign in to read it as it is now."
        raise LinkRefused(words, PlanChanged.status, approval.pk)
    if not allowed(approval):
        words = "This request is no longer decided by a link. Sign in to decide."
        raise LinkRefused(words, MayNot.status, approval.pk)


def _used(held: Held) -> LinkRefused:
    return LinkRefused(
        "You have decided with this link already. It works once.",
        410,
        held.approval.pk if held.user.is_active else None,
    )


def _signer() -> signing.TimestampSigner:
    return signing.TimestampSigner(salt=_SALT, sep=".")


def _digest(nonce: str) -> str:
    return hashlib.sha256(nonce.encode()).hexdigest()
