"""What became of each time that a worker took a job, from the job's events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from jobs.history import History, is_change, is_claim, is_redrive
from jobs.models import JobEvent
from jobs.states import State

#: How a claim ended that its worker did not end itself.
_TAKEN = {
    "handed-back": "Handed back: its worker stopped",
    "lease-lost": "Its worker stopped answering",
    "worker-died": "Its worker died",
    "worker-stopped": "Its worker was stopped",
    "orphaned": "Its worker had lost track of it",
}
#: … of these it could do nothing about.
_LOST = frozenset({"lease-lost", "worker-died", "orphaned"})


@dataclass(frozen=True, slots=True)
class Attempt:
    """One claim: who had the job from when to when, and how it ended."""

    #: Counted from the job's first claim, through all generations.
    number: int
    #: As it was: `host:pid`. Empty where nobody knows it any more.
    worker: str
    began: datetime
    #: None while it goes on.
    ended: datetime | None
    #: A state or another word that names the end, for its icon.
    mark: str
    hue: str
    words: str
    problem: Mapping[str, Any] | None = None
    #: How long after it the next try was due, where it was put off.
    delay: timedelta | None = None
    #: When the next try is due, if it has not come yet.
    next_at: datetime | None = None

    @property
    def lasted(self) -> timedelta | None:
        """Return how long the worker had the job; None while it has it."""
        return self.ended - self.began if self.ended is not None else None


@dataclass(slots=True)
class Generation:
    """The claims from one redrive to the next, newest first."""

    number: int
    #: Who redrove it, and when; empty and None for the first.
    by: str = ""
    at: datetime | None = None
    #: "checkpoint" or "start"; empty for the first.
    start: str = ""
    attempts: list[Attempt] = field(default_factory=list)


def attempts(history: History, *, next_at: datetime | None = None) -> list[Generation]:
    """Return the claims of a part of a job's story, by generation, the newest first. One without claims is left out.

    Args:
        next_at: when the job is due again, if it is scheduled.
    """
    found = [Generation(history.first_generation)]
    claimed: JobEvent | None = None
    for event in history.events:
        if is_redrive(event):
            start = str((event.data or {}).get("from", ""))
            found.append(Generation(found[-1].number + 1, event.actor, event.at, start))
        elif is_claim(event):
            claimed = event
        elif claimed is not None and is_change(event):
            found[-1].attempts.append(_attempt(claimed, event))
            claimed = None
    if claimed is not None:
        found[-1].attempts.append(_attempt(claimed, None))
    elif next_at is not None and found[-1].attempts:
        found[-1].attempts[-1] = replace(found[-1].attempts[-1], next_at=next_at)
    for generation in found:
        generation.attempts.reverse()
    return [generation for generation in reversed(found) if generation.attempts]


def count(generations: Sequence[Generation]) -> int:
    """Return how many claims these are."""
    return sum(len(generation.attempts) for generation in generations)


def _attempt(claimed: JobEvent, closed: JobEvent | None) -> Attempt:
    known = claimed.worker or (closed.worker if closed is not None else None)
    values: dict[str, Any] = {
        "number": claimed.fence,
        "worker": str(known) if known is not None else "",
        "began": claimed.at,
        "ended": closed.at if closed is not None else None,
    }
    if closed is None:
        return Attempt(**values, mark="running", hue="busy", words="Running")
    data = closed.data or {}
    mark, hue, words = _end(closed)
    delay_s = data.get("delay_s")
    return Attempt(
        **values,
        mark=mark,
        hue=hue,
        words=words,
        problem=data if data.get("title") or data.get("detail") else None,
        delay=timedelta(seconds=delay_s) if isinstance(delay_s, int | float) else None,
    )


def _end(event: JobEvent) -> tuple[str, str, str]:
    """Return the icon, the hue and the words of the change that ended a claim."""
    state = State(event.new)
    if state is State.CANCELLED:
        return "cancelled", "", "Cancelled"
    if state is State.SUCCEEDED:
        return "succeeded", "good", "Succeeded"
    if event.reason in _TAKEN:
        lost = event.reason in _LOST
        hue = "bad" if state is State.DEAD else "warn" if lost else ""
        return "lost" if lost else "redrive", hue, _TAKEN[event.reason]
    if state is State.WAITING:
        return "waiting", "", "Parked: it waits without a worker"
    if state is State.BLOCKED:
        return "blocked", "warn", "Could not go on"
    return "dead", "bad" if state is State.DEAD else "warn", "Failed"
