"""The states of a job and the changes between them: declared once, checked at import."""

from __future__ import annotations

from collections.abc import Mapping

from django.db import models


class State(models.TextChoices):
    """Where a job stands."""

    SCHEDULED = "scheduled", "Scheduled"
    BLOCKED = "blocked", "Blocked"
    QUEUED = "queued", "Queued"
    RUNNING = "running", "Running"
    WAITING = "waiting", "Waiting"
    SUCCEEDED = "succeeded", "Succeeded"
    DEAD = "dead", "Dead letter"
    DISCARDED = "discarded", "Discarded"
    CANCELLED = "cancelled", "Cancelled"


S = State

#: From each state, the states it may go to. Nothing else is possible: every UPDATE is guarded by it.
TRANSITIONS: dict[State, frozenset[State]] = {
    # its time came (or a hold or an older job of its partition stops it then)
    S.SCHEDULED: frozenset({S.QUEUED, S.BLOCKED, S.CANCELLED}),
    # the last reason fell away · redriven from its version, while something else still stops it
    S.BLOCKED: frozenset({S.QUEUED, S.BLOCKED, S.CANCELLED}),
    # claimed · a hold was placed on it
    S.QUEUED: frozenset({S.RUNNING, S.BLOCKED, S.CANCELLED}),
    # the outcome · parked · handed back or its worker died · to be tried again later · cap or version
    S.RUNNING: frozenset({S.SUCCEEDED, S.DEAD, S.CANCELLED, S.WAITING, S.QUEUED, S.SCHEDULED, S.BLOCKED}),
    # what it waited for came · a held key · cancelled
    S.WAITING: frozenset({S.QUEUED, S.BLOCKED, S.CANCELLED}),
    # redrive · an operator gave it up
    S.DEAD: frozenset({S.QUEUED, S.BLOCKED, S.DISCARDED}),
    # redrive
    S.CANCELLED: frozenset({S.QUEUED, S.BLOCKED}),
    S.SUCCEEDED: frozenset(),
    S.DISCARDED: frozenset(),
}

#: A job in one of these has ended (a redrive may begin a new generation of it).
ENDED = frozenset({S.SUCCEEDED, S.DEAD, S.DISCARDED, S.CANCELLED})
LIVE = frozenset(State) - ENDED
#: A redrive is possible from these.
REDRIVABLE = frozenset({S.DEAD, S.CANCELLED})


def check(table: Mapping[State, frozenset[State]]) -> None:
    """Refuse a table in which a job could get lost.

    Raises:
        ValueError: and says why.
    """
    if set(table) != set(State):
        raise ValueError("every state has a row")
    reachable = {S.SCHEDULED, S.BLOCKED, S.QUEUED, S.RUNNING}  # a submit or an insertion already claimed
    frontier = set(reachable)
    while frontier:
        frontier = {new for old in frontier for new in table[old]} - reachable
        reachable |= frontier
    if missing := set(State) - reachable:
        raise ValueError(f"unreachable: {', '.join(sorted(missing))}")
    for state in State:
        if state in LIVE and S.CANCELLED not in table[state]:
            raise ValueError(f"a {state} job can't be cancelled")
        if state in ENDED - REDRIVABLE and table[state]:
            raise ValueError(f"{state} is an end: nothing follows it")


check(TRANSITIONS)
