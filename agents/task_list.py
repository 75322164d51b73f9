"""The filters of the task list, as they stand in the address."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.contrib.auth.models import User
from django.db.models import QuerySet
from django.utils import timezone

from accounts import roles
from agents import queries, search
from agents.models import Run
from agents.modes import Mode
from agents.queries import TaskFilter
from jobs.states import State

SPANS = {"1h": timedelta(hours=1), "24h": timedelta(hours=24), "7d": timedelta(days=7), "30d": timedelta(days=30)}
SPAN_WORDS = {"1h": "hour", "24h": "24 hours", "7d": "7 days", "30d": "30 days"}
#: In place of a span: what the fields ``from`` and ``to`` say.
CUSTOM = "custom"
#: Filters that other pages link here with.
_LINKED = ("lane", "mode", "since", "until", "ended", "ended_until")
_TIMES = ("since", "until", "ended", "ended_until")
#: A job is not made after its end; but clocks of two machines made the two times.
_CLOCKS_APART = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class ListFilter:
    """What the address asks for. Values that make no sense are left out."""

    state: str = ""
    q: str = ""
    endpoint: str = ""
    agent: str = ""
    user: str = ""
    #: A failure's fingerprint (after `search.EXACTLY` nothing else), or words of what was said of it.
    error: str = ""
    lane: str = ""
    mode: str = ""
    #: Submitted after and before a moment: a span of `SPANS` before now, or a time in ISO 8601.
    since: str = ""
    until: str = ""
    #: Ended after and before a moment.
    ended: str = ""
    ended_until: str = ""

    @classmethod
    def read(cls, query: Mapping[str, str], user: Any) -> ListFilter:
        """Read the parameters of an address; only an operator may ask for another user's tasks.

        ``from`` and ``to`` are the fields of the form for a time of one's own, in the site's time zone. A span of
        `SPANS` wins over them: without a script they are there, whatever is chosen.
        """
        values = {name: _clean(query.get(name, "")) for name in cls.__slots__}
        allowed: dict[str, list[str]] = {"state": State.values, "mode": list(Mode)}
        for name, known in allowed.items():
            if values[name] not in known:
                values[name] = ""
        for name in _TIMES:
            if moment(values[name]) is None:
                values[name] = ""
        if not values["since"]:
            for name, field in (("since", "from"), ("until", "to")):
                at = moment(_clean(query.get(field, "")))
                if at is not None:
                    values[name] = at.isoformat()
        if not roles.is_operator(user):
            values["user"] = ""
        return cls(**values)

    def frozen(self) -> dict[str, str]:
        """Return what is set, with spans as the moments that they mean now: the same filter at any later time."""
        found = {name: getattr(self, name) for name in self.__slots__ if getattr(self, name)}
        for name in _TIMES:
            at = moment(found.get(name, ""))
            if at is not None:
                found[name] = at.isoformat()
        if self.error:
            found["error"] = search.exactly(self.error)
        return found

    def any_but_state(self) -> bool:
        """Tell whether it narrows the list at all, apart from the tab."""
        return any(getattr(self, name) for name in self.__slots__ if name != "state")

    def number_of_fields(self) -> int:
        """Return how many of the form's fields are set, but for the text, which is always in sight."""
        fields = (self.endpoint, self.agent, self.user, self.error, self.since or self.until)
        return sum(1 for value in fields if value)

    @property
    def span(self) -> str:
        """The time as the form's choice shows it: a span, `CUSTOM` or nothing."""
        return self.since if self.since in SPANS else CUSTOM if self.since or self.until else ""

    @property
    def from_field(self) -> str:
        """The beginning of a time of one's own, as a field takes it: in the site's time zone, without naming it."""
        return _field(self.since) if self.span == CUSTOM else ""

    @property
    def to_field(self) -> str:
        """The end of a time of one's own, as a field takes it."""
        return _field(self.until) if self.span == CUSTOM else ""

    def chips(self) -> list[tuple[str, str, str]]:
        """Return the filters that other pages link with, each as its name, its value and in words."""
        words = {
            "lane": f"Lane {self.lane}",
            "mode": f"Mode {self.mode}",
            "since": f"Submitted {_after(self.since)}",
            "until": f"Submitted {_before(self.until)}",
            "ended": f"Ended {_after(self.ended)}",
            "ended_until": f"Ended {_before(self.ended_until)}",
        }
        return [(name, value, words[name]) for name in _LINKED if (value := getattr(self, name))]

    def chips_without_field(self) -> list[tuple[str, str, str]]:
        """Return those of the `chips` that the form has no field for."""
        shown = ("since", "until") if self.span == CUSTOM else ("since",)
        return [chip for chip in self.chips() if chip[0] not in shown]

    def apply(self, runs: QuerySet[Run], *, with_state: bool = True) -> QuerySet[Run]:
        """Narrow the tasks down."""
        status = (self.state,) if self.state and with_state else ()
        runs = queries.matching(runs, TaskFilter(status, self.endpoint, self.agent, self.q))
        if self.user:
            runs = queries.of_user(runs, *queries.ids_of(User.objects.filter(username=self.user)))
        if self.lane:
            runs = runs.filter(job__lane=self.lane)
        if self.mode:
            runs = runs.filter(mode=self.mode)
        if self.error:
            runs = search.failed_alike(runs, self.error)
        first, end = moment(self.since), moment(self.until)
        if at := moment(self.ended):
            runs = runs.filter(job__finished_at__gte=at)
        if at := moment(self.ended_until):
            runs = runs.filter(job__finished_at__lt=at)
            end = min(end, at + _CLOCKS_APART) if end else at + _CLOCKS_APART
        return search.between(runs, _first_id(first) if first else None, _first_id(end) if end else None)


def moment(text: str) -> datetime | None:
    """Return the moment that a span of `SPANS` began, or that a time in ISO 8601 names; None if it is neither."""
    if text in SPANS:
        return timezone.now() - SPANS[text]
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    if not 1971 <= at.year <= 9000:
        return None
    # PostgreSQL refuses some offsets that Python reads, such as +23:59.
    return (at if at.tzinfo is not None else timezone.make_aware(at)).astimezone(UTC)


def _clean(text: str) -> str:
    return text.replace("\0", "").strip()[:200]


def _field(text: str) -> str:
    at = moment(text)
    return timezone.localtime(at).replace(tzinfo=None, microsecond=0).isoformat() if at is not None else ""


def _after(text: str) -> str:
    at = moment(text)
    if at is None:
        return ""
    return f"in the last {SPAN_WORDS[text]}" if text in SPANS else f"after {timezone.localtime(at):%-d %b %Y, %H:%M}"


def _before(text: str) -> str:
    at = moment(text)
    return f"before {timezone.localtime(at):%-d %b %Y, %H:%M}" if at is not None else ""


def _first_id(at: datetime) -> UUID:
    """Return the lowest id that a task made at this moment can have."""
    return UUID(int=int(at.timestamp() * 1000) << 80)
