"""The number beside "Approvals" in the navigation: how many requests wait for whoever looks."""

from __future__ import annotations

import logging
from functools import cached_property

from django.db import DatabaseError, InterfaceError
from django.http import HttpRequest

from accounts import roles
from approvals.inbox import COUNT_S, for_you
from approvals.models.approval import Person
from audit.time_limit import in_time
from jobs.queries import Bounded, bounded_count

logger = logging.getLogger(__name__)

#: A person who has more than this need not know how many.
UP_TO = 99


class Badge:
    """Reads nothing until a page asks: the parts of pages that are reloaded have no navigation, and never do."""

    def __init__(self, user: Person, pending: Bounded | None = None) -> None:
        """``pending``: how many wait, where the page has counted them anyhow."""
        self._user = user
        if pending is not None:
            self.pending = Bounded.of(pending.number, UP_TO)

    @cached_property
    def pending(self) -> Bounded:
        """How many requests wait for this person. One statement; a courtesy: no page fails of it, or waits long."""
        if not self._user.is_authenticated:
            return Bounded(0)
        try:
            return in_time(COUNT_S, lambda: bounded_count(for_you(self._user), UP_TO)) or Bounded(0)
        except (DatabaseError, InterfaceError) as error:
            logger.warning("could not count what waits for a person: %s", error, extra={"action": "badge_unread"})
            return Bounded(0)

    @property
    def is_shown(self) -> bool:
        """Whether this person has to do with approvals: by their role, or because one waits for them."""
        return roles.is_reviewer(self._user) or roles.is_operator(self._user) or bool(self.pending)


def approvals_badge(request: HttpRequest) -> dict[str, Badge]:
    """Give every template the badge of the person who is signed in."""
    user: Person | None = getattr(request, "user", None)
    return {"approvals_badge": Badge(user)} if user is not None else {}
