"""The task list of the console: its filters as they stand in the address, its tabs and its pages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.contrib.auth.models import User
from django.core.exceptions import EmptyResultSet
from django.db import OperationalError, connection, transaction
from django.db.models import QuerySet
from django.utils import timezone

from accounts import roles
from agents import queries
from agents.models import Run
from agents.modes import Mode
from agents.queries import TaskFilter
from jobs.queries import Bounded
from jobs.states import State

PAGE = 50
#: Tabs count up to this many tasks each; past it they say so.
TAB_UP_TO = 1_000
#: Counting is a courtesy: it is given up when it takes longer.
TAB_TIMEOUT_MS = 750

SPANS = {"1h": timedelta(hours=1), "24h": timedelta(hours=24), "7d": timedelta(days=7)}
_SPAN_WORDS = {"1h": "hour", "24h": "24 hours", "7d": "7 days"}
#: Filters that have no field of their own: other pages link here with them, and the page shows each with a way out.
_LINKED = ("lane", "mode", "since", "until", "ended", "ended_until")
_TIMES = ("since", "until", "ended", "ended_until")


@dataclass(frozen=True, slots=True)
class ListFilter:
    """What the address asks for. Values that make no sense are left out."""

    state: str = ""
    q: str = ""
    endpoint: str = ""
    agent: str = ""
    user: str = ""
    #: A failure's fingerprint (after `queries.EXACTLY` nothing else), or words of what was said of it.
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
        """Read the parameters of an address; only an operator may ask for another user's tasks."""
        values = {name: query.get(name, "").strip()[:200] for name in cls.__slots__}
        allowed: dict[str, list[str]] = {"state": State.values, "mode": list(Mode)}
        for name, known in allowed.items():
            if values[name] not in known:
                values[name] = ""
        for name in _TIMES:
            if moment(values[name]) is None:
                values[name] = ""
        if not roles.is_operator(user):
            values["user"] = ""
        return cls(**{name: value.replace("\0", "") for name, value in values.items()})

    def frozen(self) -> dict[str, str]:
        """Return what is set, with spans as the moments that they mean now: the same filter at any later time."""
        found = {name: getattr(self, name) for name in self.__slots__ if getattr(self, name)}
        for name in _TIMES:
            at = moment(found.get(name, ""))
            if at is not None:
                found[name] = at.isoformat()
        if self.error:
            found["error"] = queries.exactly(self.error)
        return found

    def any_but_state(self) -> bool:
        """Tell whether it narrows the list at all, apart from the tab."""
        return any(getattr(self, name) for name in self.__slots__ if name != "state")

    def chips(self) -> list[tuple[str, str, str]]:
        """Return the filters that have no field, each as its name, its value and in words."""
        words = {
            "lane": f"Lane {self.lane}",
            "mode": f"Mode {self.mode}",
            "since": f"Submitted {_after(self.since)}",
            "until": f"Submitted {_before(self.until)}",
            "ended": f"Ended {_after(self.ended)}",
            "ended_until": f"Ended {_before(self.ended_until)}",
        }
        return [(name, value, words[name]) for name in _LINKED if (value := getattr(self, name))]

    def apply(self, runs: QuerySet[Run], *, with_state: bool = True) -> QuerySet[Run]:
        """Narrow the tasks down."""
        status = (self.state,) if self.state and with_state else ()
        runs = queries.matching(runs, TaskFilter(status, self.endpoint, self.agent, self.q))
        if self.user:
            runs = runs.filter(user_id__in=queries.ids_of(User.objects.filter(username=self.user)))
        if self.lane:
            runs = runs.filter(job__lane=self.lane)
        if self.mode:
            runs = runs.filter(mode=self.mode)
        if self.error:
            runs = queries.failed_alike(runs, self.error)
        if at := moment(self.since):
            runs = runs.filter(job_id__gte=_first_id(at))
        if at := moment(self.until):
            runs = runs.filter(job_id__lt=_first_id(at))
        if at := moment(self.ended):
            runs = runs.filter(job__finished_at__gte=at)
        if at := moment(self.ended_until):
            runs = runs.filter(job__finished_at__lt=at)
        return runs


@dataclass(frozen=True, slots=True)
class Tab:
    """A state and how many tasks of the filtered list are in it; None when counting took too long."""

    state: str
    label: str
    count: Bounded | None
    current: bool


def tabs(runs: QuerySet[Run], chosen: ListFilter) -> list[Tab]:
    """Return a tab for every state that has tasks, and for the chosen one. One statement."""
    counts = _counts(chosen.apply(runs, with_state=False))
    found = [Tab("", "All", _all(counts), not chosen.state)]
    for state in State:
        count = counts.get(state.value) if counts is not None else None
        if count or counts is None or state == chosen.state:
            found.append(Tab(state.value, state.label, count, state == chosen.state))
    return found


def _all(counts: Mapping[str, Bounded] | None) -> Bounded | None:
    if counts is None:
        return None
    return Bounded(sum(count.number for count in counts.values()), any(count.more for count in counts.values()))


def _counts(runs: QuerySet[Run]) -> dict[str, Bounded] | None:
    """Count the tasks of each state, up to a bound each, in one statement that may not take long."""
    parts: list[str] = []
    params: list[Any] = []
    for state in State:
        # In the order of the list, for the tasks that are live are the newest: from there the planner walks least.
        query = runs.filter(job__state=state.value).order_by("-job_id").values("pk")[: TAB_UP_TO + 1].query
        try:
            sql, values = query.sql_with_params()
        except EmptyResultSet:  # a search that nothing can match
            return {}
        parts.append(f"SELECT '{state.value}', (SELECT count(*) FROM ({sql}) AS counted)")
        params += values
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT set_config('statement_timeout', %s, true)", [str(TAB_TIMEOUT_MS)])
            cursor.execute(" UNION ALL ".join(parts), params)
            rows = cursor.fetchall()
            cursor.execute("SELECT set_config('statement_timeout', '0', true)")
    except OperationalError as error:
        if getattr(error.__cause__, "sqlstate", "") != "57014":  # query_canceled
            raise
        return None
    return {state: Bounded.of(number, TAB_UP_TO) for state, number in rows}


def moment(text: str) -> datetime | None:
    """Return the moment that a span of `SPANS` began, or that a time in ISO 8601 names; None if it is neither."""
    if text in SPANS:
        return timezone.now() - SPANS[text]
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    if at.tzinfo is None:
        at = timezone.make_aware(at)
    return at if 1971 <= at.year <= 9000 else None


def _after(text: str) -> str:
    at = moment(text)
    if at is None:
        return ""
    return f"in the last {_SPAN_WORDS[text]}" if text in SPANS else f"after {timezone.localtime(at):%-d %b %Y, %H:%M}"


def _before(text: str) -> str:
    at = moment(text)
    return f"before {timezone.localtime(at):%-d %b %Y, %H:%M}" if at is not None else ""


def _first_id(at: datetime) -> UUID:
    """Return the lowest id that a task made at this moment can have."""
    return UUID(int=int(at.timestamp() * 1000) << 80)
