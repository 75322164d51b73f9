"""What deleting a user in Django admin would do, counted with bounds: Django's own page collects every related row.

A user's tasks, and the trail of what they did, outlive them: the tasks lose their name. What they said as reviewers
stays under it: votes, grades, notes to agents. That is a change of every one of those rows, so who has many is not
deleted but deactivated, which stops the same things at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from django.apps import apps
from django.contrib.auth.models import User

#: Who has more rows than this of any kind is not deleted: it would hold up the page, and the workers.
ROWS_UP_TO = 1_000

#: What goes with a user, and what stays without their name. `accounts` knows none of the apps above it.
GOES = (
    "agents.Conversation",
    "agents.Memory",
    "accounts.ApiToken",
    "approvals.Viewing",
    "approvals.DecisionLink",
    "approvals.Review",
)
STAYS = ("jobs.Job", "approvals.Vote", "agents.Feedback", "agents.AgentNote")
#: One and many of a kind, where a page says it in other words than the model.
WORDS = {
    "jobs.Job": ("task", "tasks"),
    "approvals.Viewing": ("view of a plan", "views of plans"),
    "agents.Feedback": ("grade of a task", "grades of tasks"),
    "agents.AgentNote": ("note to an agent", "notes to agents"),
}


@dataclass(frozen=True, slots=True)
class Related:
    """Rows of one kind that belong to a user."""

    words: str
    #: At most `ROWS_UP_TO` and one.
    number: int

    @property
    def is_many(self) -> bool:
        """Whether there are more than a deletion may change."""
        return self.number > ROWS_UP_TO

    def __str__(self) -> str:
        return f"{min(self.number, ROWS_UP_TO):,}{'+' if self.is_many else ''} {self.words}"


@dataclass(frozen=True, slots=True)
class Deletion:
    """What deleting one user does."""

    user: User
    goes: tuple[Related, ...]
    stays: tuple[Related, ...]

    @classmethod
    def of(cls, user: User) -> Deletion:
        """Count what belongs to a user."""
        return cls(user, _related(user, GOES), _related(user, STAYS))

    @property
    def too_many(self) -> list[str]:
        """What there is too much of."""
        return [str(each) for each in (*self.stays, *self.goes) if each.is_many]


def deletions(users: Iterable[User]) -> list[Deletion]:
    """Return what deleting each user does."""
    return [Deletion.of(user) for user in users]


def _related(user: User, labels: Iterable[str]) -> tuple[Related, ...]:
    found = []
    for label in labels:
        model = apps.get_model(label)
        rows = model._default_manager.filter(user_id=user.pk).order_by().values("pk")
        number = rows[: ROWS_UP_TO + 1].count()
        one, many = WORDS.get(label) or (str(model._meta.verbose_name), str(model._meta.verbose_name_plural))
        found.append(Related(one if number == 1 else many, number))
    return tuple(found)
