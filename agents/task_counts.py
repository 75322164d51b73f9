"""How many tasks a filter finds, by state: exactly where that can be had at once, else honest about the bound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.core.exceptions import EmptyResultSet
from django.db import connection
from django.db.models import QuerySet

from agents.models import Run
from audit.time_limit import in_time
from jobs.queries import COUNT_UP_TO, Bounded
from jobs.states import State

#: Of the whole table, each state is counted up to this many.
EACH_UP_TO = 1_000
#: Past `COUNT_UP_TO` tasks, so many of the newest tell how many there are at least in each state.
OF_NEWEST = 2_000
#: Counting is a courtesy: each try is given up when it takes longer.
COUNT_S = 0.3


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts of the tasks of a filter; None is a number that nobody knows."""

    all: Bounded | None
    #: A state that is missing has no task.
    by_state: Mapping[str, Bounded | None]

    def of(self, state: str) -> Bounded | None:
        """Return the count of a state, or of all."""
        return self.by_state.get(state, Bounded(0)) if state else self.all

    @property
    def none(self) -> bool:
        """Whether there is no task at all."""
        return self.all is not None and not self.all


#: Counting took too long.
UNKNOWN = Counts(None, dict.fromkeys(State.values))


def count(found: QuerySet[Run], *, chosen: str = "", whole: bool = False) -> Counts:
    """Count the tasks that were found, of whatever state.

    Args:
        chosen: the state that is shown; it is counted up to `COUNT_UP_TO`.
        whole: they are the whole table, or as good as that.
    """
    if whole:
        return in_time(COUNT_S, lambda: _each(found, chosen)) or UNKNOWN
    few = in_time(COUNT_S, lambda: _by_state(found.order_by(), COUNT_UP_TO))
    if few is not None and sum(few.values()) <= COUNT_UP_TO:
        return _exactly(few)
    newest = in_time(COUNT_S, lambda: _by_state(found.order_by("-job_id"), OF_NEWEST))
    if newest is None:
        return UNKNOWN
    if sum(newest.values()) <= OF_NEWEST:
        return _exactly(newest)
    by_state = {state: Bounded(newest[state], more=True) if state in newest else None for state in State.values}
    if chosen:
        one = in_time(COUNT_S, lambda: _by_state(found.filter(job__state=chosen).order_by(), COUNT_UP_TO))
        by_state[chosen] = by_state[chosen] if one is None else Bounded.of(one.get(chosen, 0))
    return Counts(Bounded(OF_NEWEST if few is None else COUNT_UP_TO, more=True), by_state)


def count_among(found: QuerySet[Run], among: int) -> Counts:
    """Count the tasks that were found among no more than so many."""
    return _exactly(_by_state(found.order_by(), among))


def _exactly(counts: Mapping[str, int]) -> Counts:
    return Counts(Bounded.of(sum(counts.values())), {state: Bounded.of(number) for state, number in counts.items()})


def _by_state(found: QuerySet[Run], up_to: int) -> dict[str, int]:
    """Count the tasks of each state among the first ``up_to`` + 1. One statement."""
    try:
        sql, params = found.values("job__state")[: up_to + 1].query.sql_with_params()
    except EmptyResultSet:  # a search that nothing can match
        return {}
    return dict(_rows(f"SELECT state, count(*) FROM ({sql}) AS found (state) GROUP BY state", list(params)))


def _each(found: QuerySet[Run], chosen: str) -> Counts:
    """Count the tasks of each state up to a bound, the chosen one's up to a higher one. One statement."""
    parts: list[str] = []
    params: list[Any] = []
    bounds = {"": COUNT_UP_TO} | {state: COUNT_UP_TO if state == chosen else EACH_UP_TO for state in State.values}
    for state, up_to in bounds.items():
        rows = found.filter(job__state=state) if state else found
        query = rows.order_by("-job_id").values("pk")[: up_to + 1].query
        try:
            sql, values = query.sql_with_params()
        except EmptyResultSet:
            return _exactly({})
        parts.append(f"SELECT '{state}', (SELECT count(*) FROM ({sql}) AS counted)")
        params += values
    counts = {
        state: Bounded.of(number, bounds[state]) for state, number in _rows(" UNION ALL ".join(parts), params) if number
    }
    return Counts(counts.pop("", Bounded(0)), counts)


def _rows(sql: str, params: list[Any]) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        return list(cursor.fetchall())
