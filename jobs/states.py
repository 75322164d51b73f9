"""The states of a job and the changes between them: declared once, checked at import."""

from __future__ import annotations

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
    # the last reason fell away
    S.BLOCKED: frozenset({S.QUEUED, S.SCHEDULED, S.CANCELLED}),
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


def sources(new: State) -> list[str]:
    """Return the states from which ``new`` can be reached, for the guard of an UPDATE."""
    return [old.value for old, news in TRANSITIONS.items() if new in news]


def _check() -> None:
    assert set(TRANSITIONS) == set(State), "every state has a row"
    reachable = {S.SCHEDULED, S.BLOCKED, S.QUEUED, S.RUNNING}  # a submit or an insertion already claimed
    frontier = set(reachable)
    while frontier:
        frontier = {new for old in frontier for new in TRANSITIONS[old]} - reachable
        reachable |= frontier
    assert reachable == set(State), f"unreachable: {set(State) - reachable}"
    assert all(S.CANCELLED in TRANSITIONS[state] for state in LIVE), "every live job can be cancelled"


_check()
