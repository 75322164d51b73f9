"""Rejecting several requests at once, each as `Decide` does it by itself. Nothing is ever approved so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from accounts.problems import Problem
from approvals.deciding import Decide
from approvals.errors import AlreadyDecided, Claimed, PlanChanged
from approvals.inbox_rows import Row, rows_of
from approvals.locking import decided_words, why_not
from approvals.models import Approval
from approvals.models.approval import Person
from audit.trail import Actor

AT_ONCE = 200

Outcome = Literal["rejected", "first", "changed", "claimed", "refused"]
_OUTCOMES: dict[type[Problem], Outcome] = {AlreadyDecided: "first", PlanChanged: "changed", Claimed: "claimed"}


class BadChoice(ValueError):
    """What was sent names no requests; the words say what to do."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """What somebody has yet to confirm."""

    #: Those that will be rejected.
    rows: Sequence[Row]
    #: Those that will not, and why.
    left: Sequence[tuple[Row, str]]
    #: How many of those chosen are not there, or not for this person to see.
    unknown: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one."""

    approval_id: UUID
    #: None if the person may not even see it.
    approval: Approval | None
    outcome: Outcome
    #: Why it was not rejected; of one that was, nothing, or that it was so before.
    words: str = ""


def chosen(texts: Sequence[str]) -> list[UUID]:
    """Return the ids that were chosen, each once, in order.

    Raises:
        BadChoice: none, too many, or something that is no id.
    """
    if len(texts) > AT_ONCE:
        raise BadChoice(f"At most {AT_ONCE} requests are rejected at once. Choose fewer.")
    try:
        found = list(dict.fromkeys(UUID(text) for text in texts))
    except ValueError:
        raise BadChoice("One of these is not the id of a request. Choose them in the inbox again.") from None
    if not found:
        raise BadChoice("Choose some requests first: tick them in the inbox.")
    return found


def seen(texts: Sequence[str]) -> dict[UUID, str]:
    """Return the hash of each plan as it was confirmed, by the id of its request. A text is ``id hash``.

    Raises:
        BadChoice: as `chosen`.
    """
    pairs = [text.partition(" ") for text in texts]
    chosen([key for key, _, _ in pairs])
    return {UUID(key): plan_hash for key, _, plan_hash in pairs}


def propose(ids: Sequence[UUID], user: Person) -> Proposal:
    """Return what rejecting these comes to, as they are now. Two statements."""
    visible = Approval.objects.visible_to(user).select_related("claimed_by", "requested_by").in_bulk(list(ids))
    rows = rows_of((visible[each] for each in ids if each in visible), user)
    left = [(row, why) for row in rows if (why := _why_left(row))]
    return Proposal([row for row in rows if row.may_reject], left, unknown=len(ids) - len(rows))


def reject(plans: dict[UUID, str], actor: Actor, note: str) -> list[Result]:
    """Reject each plan of the hash given, for the same reason. Each is a decision of its own: one cannot spoil another.

    Doing it again changes nothing and tells the same.
    """
    assert actor.user is not None
    found = [_reject(each, plan_hash, actor, note) for each, plan_hash in plans.items()]
    visible = Approval.objects.visible_to(actor.user).in_bulk(list(plans))
    results = []
    for approval_id, outcome, words in found:
        approval = visible.get(approval_id)
        if approval is None:
            outcome, words = "refused", "There is no such request, or you may not see it."
        elif outcome == "first" and _is_own_rejection(approval, actor):
            outcome, words = "rejected", "You rejected it already."
        results.append(Result(approval_id, approval, outcome, words))
    return results


def _reject(approval_id: UUID, plan_hash: str, actor: Actor, note: str) -> tuple[UUID, Outcome, str]:
    try:
        Decide(actor, "reject", plan_hash, note).run(approval_id)
    except Problem as problem:
        outcome = _OUTCOMES.get(type(problem), "refused")
        return approval_id, outcome, str(problem.detail)
    return approval_id, "rejected", ""


def _is_own_rejection(approval: Approval, actor: Actor) -> bool:
    return approval.decision == Approval.Decision.REJECT and approval.decided_by == [actor.name]


def _why_left(row: Row) -> str:
    if not row.approval.is_pending:
        return decided_words(row.approval)
    if why := why_not(row.approval, row.user):
        return why
    if row.approval.is_effect:
        return "It asks what became of a call. Settle it on its own page."
    return "" if row.may_reject else f"{row.holder} is on it."
