"""The one order of locks: the run's job, then the request. As a run that parks or ends takes them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from django.contrib.auth.models import User
from django.db.models.functions import Now

from approvals.errors import AlreadyDecided, Claimed, MayNot, UnknownApproval
from approvals.models import Approval
from approvals.models.approval import Person, groups_of
from jobs import script
from jobs.transitions import lock


def locked(approval_id: UUID) -> Approval:
    """Lock a request and the job of its run, in the caller's transaction, and return it with the time it is by now.

    Raises:
        UnknownApproval: there is none.
    """
    run_id = Approval.objects.filter(pk=approval_id).values_list("run_id", flat=True).first()
    if run_id is not None and script.run(lock(run_id)) is not None:
        rows = Approval.objects.select_for_update(of=("self",)).annotate(at=Now())
        found = rows.filter(pk=approval_id).first()
        if found is not None:
            found.locked_at = vars(found).pop("at")
            return found
    raise UnknownApproval(f"There is no approval {approval_id}.")


def refuse_decided(approval: Approval) -> None:
    """Refuse what only a pending request allows.

    Raises:
        AlreadyDecided: and by whom.
    """
    if not approval.is_pending:
        raise AlreadyDecided(
            decided_words(approval), state=approval.state, decision=approval.decision, by=approval.decided_by
        )


def decided_words(approval: Approval) -> str:
    """Say how a request ended and who saw to it."""
    if approval.state == Approval.State.EXPIRED:
        return "Nobody decided in time, so it has expired."
    if not approval.decision:
        return "The run needs no answer any more."
    by = f" by {' and '.join(approval.decided_by)}" if approval.decided_by else ""
    words = {
        "approve": "It was approved{by} already.",
        "approve_with_changes": "It was approved with changes{by} already.",
        "request_changes": "Changes were requested{by} already.",
        "reject": "It was rejected{by} already.",
        "happened": "It was settled{by} already: it happened.",
        "again": "It was settled{by} already: it is done again.",
        "give_up": "It was settled{by} already: it was given up.",
    }
    return words[approval.decision].format(by=by)


def why_not(approval: Approval, user: Person) -> str:
    """Return why a person may not decide on a request; nothing if they may."""
    if not user.is_active:
        return "Your account is not active any more."
    if user.get_username() not in approval.users and not groups_of(user) & set(approval.groups):
        return f"Only {who_may(approval)} may decide on this."
    if approval.not_own and approval.requested_by_id == user.pk:
        return "You asked for this yourself, so somebody else has to decide."
    return ""


def refuse_others(approval: Approval, user: Person) -> None:
    """Refuse whoever may not decide, as the database knows them now: roles and accounts are taken away at any time.

    Raises:
        MayNot: and who may.
    """
    now = User.objects.filter(pk=user.pk).first() if isinstance(user, User) else None
    if why := why_not(approval, now) if now is not None else "Your account is gone.":
        raise MayNot(why)


def holder(approval: Approval, now: datetime | None = None) -> User | None:
    """Return who has claimed a request; nobody once the claim has run out, or they may not decide any more.

    Args:
        now: when; by default when it was `locked`.
    """
    until, user = approval.claimed_until, approval.claimed_by
    if until is None or user is None or until <= (now or approval.locked_at) or why_not(approval, user):
        return None
    return user


def refuse_claimed(approval: Approval, user: User) -> None:
    """Refuse whoever would come between somebody and the `locked` request that they have claimed.

    Raises:
        Claimed: who has it, and until when.
    """
    if (other := holder(approval)) is not None and other != user:
        until = f"{approval.claimed_until:%H:%M} UTC"
        raise Claimed(f"{other.get_username()} is on it until {until}. Take it over if that cannot wait.")


def who_may(approval: Approval) -> str:
    """Name the groups and people that may decide."""
    return named(approval.groups, approval.users)


def named(groups: Sequence[str], users: Sequence[str]) -> str:
    """Name groups and people of whom anyone may: "the group finance or bea"."""
    return " or ".join([*(f"the group {name}" for name in groups), *users]) or "nobody"
