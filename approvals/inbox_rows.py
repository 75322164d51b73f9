"""What a row of the inbox says of a request to the person who looks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from django.utils import timezone

from accounts import roles
from approvals.inbox import SOON
from approvals.locking import holder, who_may, why_not
from approvals.models import Approval
from approvals.models.approval import Person

#: How a request ended: icon, word and hue by its decision.
_ENDS = {
    Approval.Decision.APPROVE: ("succeeded", "Approved", "good"),
    Approval.Decision.WITH_CHANGES: ("succeeded", "Approved with changes", "good"),
    Approval.Decision.REQUEST_CHANGES: ("redrive", "Changes requested", ""),
    Approval.Decision.REJECT: ("cancelled", "Rejected", ""),
    Approval.Decision.HAPPENED: ("succeeded", "It happened", ""),
    Approval.Decision.AGAIN: ("redrive", "Done again", ""),
    Approval.Decision.GIVE_UP: ("discarded", "Given up", ""),
}


@dataclass(frozen=True, slots=True)
class Row:
    """A request as the list shows it. It is `find` that reads it, with who voted."""

    approval: Approval
    user: Person
    now: datetime

    @property
    def may_decide(self) -> bool:
        """Whether the person may decide on it."""
        return self.approval.is_pending and not why_not(self.approval, self.user)

    @property
    def may_reject(self) -> bool:
        """Whether the person may reject it together with others: of an effect nobody can."""
        return self.may_decide and not self.approval.is_effect and self.holder in ("", self.user.get_username())

    @property
    def holder(self) -> str:
        """Who claims it now; nothing if nobody does."""
        found = holder(self.approval, self.now)
        return found.get_username() if found is not None else ""

    @property
    def is_mine(self) -> bool:
        """Whether the person claims it."""
        return self.holder == self.user.get_username()

    @property
    def who(self) -> str:
        """Who may decide on it, in words."""
        return who_may(self.approval)

    @property
    def is_soon(self) -> bool:
        """Whether its deadline is near."""
        return self.approval.deadline is not None and self.approval.deadline - self.now < SOON

    @property
    def is_due(self) -> bool:
        """Whether its deadline has come: it ends by itself any moment."""
        return self.approval.deadline is not None and self.approval.deadline <= self.now

    @property
    def voters(self) -> list[str]:
        """Who agreed to it as it stands."""
        return list(getattr(self.approval, "voters", ()))

    @property
    def is_voted(self) -> bool:
        """Whether the person has said what they think."""
        return self.user.get_username() in self.voters

    @property
    def by(self) -> str:
        """Who decided it, in words."""
        return " and ".join(self.approval.decided_by)

    @property
    def end(self) -> tuple[str, str, str]:
        """How it ended: icon, word and hue."""
        if self.approval.state == Approval.State.EXPIRED:
            return "scheduled", "Expired", "warn"
        if not self.approval.decision:
            return "discarded", "Needless by now", ""
        return _ENDS[Approval.Decision(self.approval.decision)]


def rows_of(approvals: Iterable[Approval], user: Person) -> list[Row]:
    """Return the rows of a list. One statement, for the groups of those who claim some."""
    now, found = timezone.now(), list(approvals)
    roles.learn_groups(approval.claimed_by for approval in found if approval.claimed_by is not None)
    return [Row(approval, user, now) for approval in found]
