"""What a filter of the task list finds: its page, its tabs with their counts, and how it was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from django.db.models import QuerySet

from agents import queries, search
from agents.models import Run
from agents.queries import Page
from agents.task_counts import Counts, count, count_among
from agents.task_list import ListFilter
from audit.time_limit import in_time
from jobs.bulk import STATES
from jobs.models import BulkOperation
from jobs.queries import Bounded
from jobs.states import State

PAGE = 50
#: What a list does not show and can be large.
NOT_LISTED = ("output", "budget", "job__payload")
#: The list is given up when it takes longer, seconds.
LIST_S = 2.0
#: Among so many of the newest tasks a piece of text is looked for; among fewer if that takes too long.
PIECE_AMONG = (20_000, 2_000)
PIECE_S = 0.3

Verb = BulkOperation.Verb


@dataclass(frozen=True, slots=True)
class Tab:
    """A state and how many tasks of the filtered list are in it; None when nobody knows."""

    state: str
    label: str
    count: Bounded | None
    current: bool


@dataclass(frozen=True, slots=True)
class Results:
    """The tasks that a filter finds."""

    page: Page[Run]
    tabs: Sequence[Tab]
    #: As many match in the chosen state; None when nobody knows, or when no filter finds them again.
    matching: Bounded | None
    #: What can be done with some of them.
    verbs: Sequence[str]
    #: No task holds the words. These hold the text as it is, among so many of the newest.
    among: int | None = None
    #: Finding them was given up after so many seconds; then the page is empty.
    given_up: float | None = None
    #: What the failure is called that all of them have in common.
    failure: str = ""


def find(
    runs: QuerySet[Run], chosen: ListFilter, *, whole: bool = False, cursor: str = "", limit: int = PAGE
) -> Results:
    """Find the tasks of a filter, newest first, in a time that is bounded.

    Args:
        whole: the filter is all that narrows the tasks down.

    Raises:
        BadCursor: as `queries.page`.
    """
    found = chosen.apply(runs, with_state=False)
    counts = count(found, chosen=chosen.state, whole=whole and not chosen.any_but_state())
    if counts.none and chosen.q:
        piece = _by_piece(runs, chosen, cursor, limit)
        if piece is not None:
            return piece
    page = in_time(LIST_S, lambda: queries.page(_in_state(found, chosen), cursor=cursor, limit=limit))
    if page is None:
        return Results(Page([], None), _tabs(counts, chosen), None, (), given_up=LIST_S)
    return Results(
        page,
        _tabs(counts, chosen),
        counts.of(chosen.state),
        verbs(chosen.state),
        failure=_failure(page.items, chosen.error),
    )


def verbs(state: str) -> Sequence[str]:
    """Return what an operation can do with tasks of a state (none: of any)."""
    if not state:
        return (Verb.REDRIVE, Verb.CANCEL)
    return tuple(verb for verb, states in STATES.items() if state in states)


def _by_piece(runs: QuerySet[Run], chosen: ListFilter, cursor: str, limit: int) -> Results | None:
    """Look for the text as it is among the newest tasks of the other filters; None if that takes too long, too."""
    others = replace(chosen, q="").apply(runs, with_state=False)

    def read(among: int) -> tuple[Page[Run], Counts]:
        first = search.newest_from(others, among)
        found = search.holding_piece(search.between(others, first), chosen.q)
        return queries.page(_in_state(found, chosen), cursor=cursor, limit=limit), count_among(found, among)

    for among in PIECE_AMONG:
        done = in_time(PIECE_S, partial(read, among))
        if done is not None:
            page, counts = done
            return Results(page, _tabs(counts, chosen), None, verbs(chosen.state), among=among)
    return None


def _failure(shown: Sequence[Run], text: str) -> str:
    """Say what failures are called of which the text is the fingerprint; nothing if it is words."""
    if not text:
        return ""
    problem = shown[0].job.error if shown else None
    if isinstance(problem, dict) and problem.get("fingerprint", "") == text.removeprefix(search.EXACTLY):
        return str(problem.get("title") or "without a title")
    return "as a fingerprint says" if text.startswith(search.EXACTLY) else ""


def _in_state(found: QuerySet[Run], chosen: ListFilter) -> QuerySet[Run]:
    return found.filter(job__state=chosen.state) if chosen.state else found


def _tabs(counts: Counts, chosen: ListFilter) -> list[Tab]:
    """Return a tab for every state that may have tasks, and for the chosen one."""
    tabs = [Tab("", "All", counts.all, not chosen.state)]
    for state in State:
        number = counts.of(state.value)
        if number is None or number or state == chosen.state:
            tabs.append(Tab(state.value, state.label, number, state == chosen.state))
    return tabs
