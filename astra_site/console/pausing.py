"""What can be paused, and how a hold is told."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from django.urls import reverse
from django.utils import timezone
from django.utils.http import urlencode

from agents import registry
from audit.models import AuditEntry
from jobs import lanes
from jobs.actions import PAUSED
from jobs.holds import EVERYTHING
from jobs.models import Hold

_KINDS = {"lane": "Lane", "agent": "Agent", "endpoint": "Endpoint"}


class CannotPause(Exception):
    """That is nothing that can be paused. The message says why; ``status`` is that of the answer."""

    def __init__(self, words: str, status: int) -> None:
        super().__init__(words)
        self.status = status


def check(key: str) -> str:
    """Return a key that may be paused or resumed.

    Raises:
        CannotPause: it is no key, or names what there is not.
    """
    if key == EVERYTHING:
        return key
    kind, _, name = key.partition(":")
    if kind not in _KINDS or not name:
        raise CannotPause("A lane, an agent, an endpoint or everything can be paused, and nothing else.", 422)
    if kind == "lane":
        if name == lanes.SUSPECT:
            raise CannotPause("Lane suspect is paused with the lanes its tasks came from: pause those.", 422)
        is_known = lanes.is_lane(name)
    else:
        endpoints = registry.current().endpoints
        is_known = name in endpoints if kind == "endpoint" else any(e.agent == name for e in endpoints.values())
    if not is_known:
        raise CannotPause(f"There is no {kind} “{name[:80]}”.", 404)
    return key


def named(key: str) -> str:
    """Return what a key holds, as the beginning of a sentence."""
    kind, _, name = key.partition(":")
    if key == EVERYTHING:
        return "Everything"
    return f"{_KINDS[kind]} {name}" if kind in _KINDS else key


@dataclass(frozen=True)
class Held:
    """A hold as the pages tell it."""

    hold: Hold

    @property
    def name(self) -> str:
        """Return what is held."""
        return named(self.hold.key)

    @property
    def is_pause(self) -> bool:
        """Whether a person placed it, to be lifted by hand. Anything else knows by itself when to go."""
        return self.hold.reason == PAUSED

    @property
    def anchor(self) -> str:
        """Return the id of its row."""
        return f"hold-{self.hold.pk}"

    @property
    def waiting_link(self) -> str:
        """Return the address of the tasks that it may stop."""
        kind, _, name = self.hold.key.partition(":")
        filters = {"state": "blocked"} | ({kind: name} if kind in _KINDS else {})
        return f"{reverse('tasks')}?{urlencode(filters)}"

    @cached_property
    def words(self) -> str:
        """Return what is held, by whom, since when and why."""
        verb = "is paused" if self.is_pause else f"is held ({self.hold.reason})"
        note = f": {self.hold.note}" if self.hold.note else ""
        return f"{self.name} {verb} by {self.hold.placed_by} since {moment(self.hold)}{note.rstrip('.')}."


def moment(of: Hold | AuditEntry) -> str:
    """Return when a hold was placed or lifted: the time of day, with the date if that is not today's."""
    at = timezone.localtime(of.placed_at if isinstance(of, Hold) else of.at)
    return f"{at:%H:%M}" if at.date() == timezone.localdate() else f"{at:%-d %b, %H:%M}"


def last_lifted(key: str) -> AuditEntry | None:
    """Return who lifted a hold on this key last."""
    return AuditEntry.objects.filter(target_type="hold", target_id=key, action="hold.lift").order_by("-id").first()
