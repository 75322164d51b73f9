"""What time a review looks back on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, time, timedelta

from django.contrib.auth.models import User
from django.utils import timezone

from approvals.models import Review

Kind = Review.Kind
#: Times to look back on, hours, that the page offers beside its own.
HOURS = (12, 24, 48, 168)
#: Where nobody has sat yet: since when a first review looks back, in the site's time.
FIRST = {Kind.MORNING: time(18), Kind.EVENING: time(6)}
#: A review looks back no longer than this by itself.
MOST = timedelta(days=3)
#: A sitting that looks back further is none that a page offered: it was open for weeks, or somebody made it up.
OLDEST = timedelta(days=60)


@dataclass(frozen=True, slots=True)
class Window:
    """From when to when."""

    since: datetime
    until: datetime
    #: The hours that were asked for; 0 for the review's own time.
    hours: int = 0
    #: When this person finished the last review of the kind.
    last: datetime | None = None

    @property
    def length(self) -> timedelta:
        """Return how long it is."""
        return self.until - self.since


def asked_hours(query: Mapping[str, str]) -> int | None:
    """Return the hours that somebody asks for, if they are among those that the page offers."""
    return next((hours for hours in HOURS if query.get("hours", "") == str(hours)), None)


def window(kind: Kind, user: User, query: Mapping[str, str], *, now: datetime | None = None) -> Window:
    """Return what a review looks back on: since the person's last one, or the hours that they ask for."""
    now = now or timezone.now()
    last = (
        Review.objects.filter(user=user, kind=kind, until__lte=now)
        .order_by("-until")
        .values_list("until", flat=True)
        .first()
    )
    if (hours := asked_hours(query)) is not None:
        return Window(now - timedelta(hours=hours), now, hours, last)
    if last is not None:
        return Window(max(last, now - MOST), now, 0, last)
    local = timezone.localtime(now)
    began = local.replace(hour=FIRST[kind].hour, minute=0, second=0, microsecond=0)
    # What began less than an hour ago is hardly what somebody sits down for.
    if kind is Kind.MORNING or local - began < timedelta(hours=1):
        began -= timedelta(days=1)
    return Window(began, now)
