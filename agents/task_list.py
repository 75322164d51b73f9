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
_LINKED = ("lane", "mode", "since", "ended")


@dataclass(frozen=True, slots=True)
class ListFilter:
    """What the address asks for. Values that make no sense are left out."""

    state: str = ""
    q: str = ""
    endpoint: str = ""
    agent: str = ""
    user: str = ""
    lane: str = ""
    mode: str = ""
    #: Submitted within a span of `SPANS`.
    since: str = ""
    #: Ended within a span of `SPANS`.
    ended: str = ""

    @classmethod
    def read(cls, query: Mapping[str, str], user: Any) -> ListFilter:
        """Read the parameters of an address; only an operator may ask for another user's tasks."""
        values = {name: query.get(name, "").strip()[:200] for name in cls.__slots__}
        spans = list(SPANS)
        allowed: dict[str, list[str]] = {"state": State.values, "mode": list(Mode), "since": spans, "ended": spans}
        for name, known in allowed.items():
            if values[name] not in known:
                values[name] = ""
        if not roles.is_operator(user):
            values["user"] = ""
        return cls(**{name: value.replace("\0", "") for name, value in values.items()})

    def any_but_state(self) -> bool:
        """Tell whether it narrows the list at all, apart from the tab."""
        return any(getattr(self, name) for name in self.__slots__ if name != "state")

    def chips(self) -> list[tuple[str, str]]:
        """Return the filters that have no field, each as its name and in words."""
        words = {
            "lane": f"Lane {self.lane}",
            "mode": f"Mode {self.mode}",
            "since": f"Submitted in the last {_SPAN_WORDS.get(self.since, '')}",
            "ended": f"Ended in the last {_SPAN_WORDS.get(self.ended, '')}",
        }
        return [(name, words[name]) for name in _LINKED if getattr(self, name)]

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
        if self.since:
            runs = runs.filter(job_id__gte=_first_id(timezone.now() - SPANS[self.since]))
        if self.ended:
            runs = runs.filter(job__finished_at__gte=timezone.now() - SPANS[self.ended])
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


def _first_id(at: datetime) -> UUID:
    """Return the lowest id that a task made at this moment can have."""
    return UUID(int=int(at.timestamp() * 1000) << 80)
