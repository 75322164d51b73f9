"""Tell a job's story in words, from its events."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from jobs import lanes
from jobs.history import is_change
from jobs.holds import EVERYTHING
from jobs.models import JobEvent
from jobs.states import ENDED, State
from jobs.transitions import PARTITION, UNKNOWN_HANDLER, VERSION


@dataclass(frozen=True, slots=True)
class Moment:
    """One line of the story."""

    event_id: int
    at: datetime
    #: A state, or another word that names what happened, for its icon.
    mark: str
    #: good, busy, warn, bad, or nothing.
    hue: str
    words: str
    detail: str = ""
    #: Until the next change of state; None for what has no length, and for the last.
    lasted: timedelta | None = None
    #: Where there is more of it.
    url: str = ""


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of time in one state."""

    state: State
    began: datetime
    #: None while it goes on.
    ended: datetime | None


#: What makes a job ready, in words. What then becomes of it is said after a comma.
_READY = {
    "submitted": "Submitted",
    "due": "Its time came",
    "unblocked": "Nothing stops it any more",
    "resolved": "What it waited for came",
    "handed-back": "Its worker stopped and handed it back",
    "lease-lost": "Its worker stopped answering",
    "worker-died": "Its worker died",
    "worker-stopped": "Its worker stopped",
    "orphaned": "Its worker had lost track of it",
    "redriven": "Redriven",
    "held": "Held back",
}
_LOST = frozenset({"lease-lost", "worker-died", "worker-stopped", "orphaned"})
#: After these it is a suspect.
_DIED = frozenset({"lease-lost", "worker-died"})
#: Who takes a job: a worker's process, or for the chat a web server's.
_TAKEN = ("Taken by a worker", "Taken by a web process")
_NOW = {State.QUEUED: "queued", State.BLOCKED: "blocked", State.SCHEDULED: "scheduled"}


def tell(events: Iterable[JobEvent], *, lane: str = "") -> list[Moment]:
    """Return the story of changes of state and failed steps, oldest first.

    Args:
        lane: where the job belongs. A reply in the chat never stood in a queue, and no worker process takes it.
    """
    in_chat = lane == lanes.CHAT
    told = [event for event in events if _is_told(event)]
    moments: list[Moment] = []
    changes = [event for event in told if is_change(event)]
    nexts = {event.pk: later.at for event, later in pairwise(changes)}
    for event in told:
        mark, hue, words, detail = _say(event, in_chat)
        if moments and moments[-1].detail == detail:
            detail = ""  # a failed step, and then the attempt that failed with it
        later = nexts.get(event.pk)
        lasted = later - event.at if later is not None and later > event.at else None
        moments.append(Moment(event.pk, event.at, mark, hue, words, detail, lasted))
    return moments


def phases(events: Iterable[JobEvent]) -> list[Phase]:
    """Return the stretches of time that a job spent in each state, oldest first; an end is no stretch."""
    changes = [event for event in events if is_change(event)]
    found = []
    for place, event in enumerate(changes):
        if event.new in ENDED:
            continue
        ended = changes[place + 1].at if place + 1 < len(changes) else None
        found.append(Phase(State(event.new), event.at, ended))
    return found


def in_words(reasons: Sequence[str]) -> list[str]:
    """Say why a job is blocked."""
    return [_reason(reason) for reason in reasons]


def _is_told(event: JobEvent) -> bool:
    if event.kind == JobEvent.Kind.STEP:
        return event.reason == "failed"
    return event.kind in (JobEvent.Kind.STATE, JobEvent.Kind.EMIT)


def _say(event: JobEvent, in_chat: bool) -> tuple[str, str, str, str]:
    data = event.data if isinstance(event.data, dict) else {}
    if event.kind == JobEvent.Kind.STEP:
        problem = data.get("problem") or {}
        return "step", "warn", f"Step {data.get('name', '')} failed", _problem(problem)
    if event.kind == JobEvent.Kind.EMIT:
        return "emit", "", f"Published {event.reason or data.get('name', 'an event')}", ""
    if event.reason == "cancel-requested":
        return "cancelled", "", f"{event.actor} asked it to stop", ""
    if event.new == State.RUNNING:
        return "running", "busy", _TAKEN[in_chat], str(event.worker) if event.worker else ""
    if event.new in ENDED:
        return _end(event, data)
    if event.reason == "retry":
        delay = data.get("delay_s")
        return (
            "redrive",
            "warn",
            f"Failed; next try in {delay:g} s" if delay else "Failed; tried again",
            _problem(data),
        )
    if event.new == State.WAITING:
        kinds = ", ".join(f"{wait['kind']} {wait['key']}" for wait in data.get("waits", []))
        return "waiting", "", "Parked: it holds no worker while it waits", kinds
    return _ready(event, data, in_chat)


def _ready(event: JobEvent, data: dict[str, Any], in_chat: bool) -> tuple[str, str, str, str]:
    words = _READY.get(event.reason, "")
    if event.reason == "redriven":
        start = "from its last step" if data.get("from") == "checkpoint" else "from the start"
        words = f"Redriven {start}" + (f" by {event.actor}" if event.actor else "")
    elif not words:
        words, detail = "Can't go on", _problem(data) or _reason(event.reason)
        return str(event.new), "warn", words, detail
    suspected = event.reason in _DIED and event.new == State.QUEUED and not in_chat
    detail = "It runs next alone in a process of its own." if suspected else ""
    mark = "lost" if event.reason in _LOST else str(event.new)
    hue = "warn" if event.reason in _LOST or event.new == State.BLOCKED else ""
    if event.reason == "submitted" and in_chat:
        mark, words = "chat", "Asked in the chat"
    elif event.reason == "submitted" and event.new != State.BLOCKED:
        words = "Submitted to the queue" if event.new == State.QUEUED else "Submitted for later"
    else:
        words = f"{words}; {_NOW[State(event.new)]}"
    return mark, hue, words, detail


def _end(event: JobEvent, data: dict[str, Any]) -> tuple[str, str, str, str]:
    if event.new == State.SUCCEEDED:
        return "succeeded", "good", "Succeeded", ""
    if event.new == State.DEAD:
        return (
            "dead",
            "bad",
            "Out of attempts: a dead letter" if data.get("retriable", True) else "Failed for good",
            _problem(data),
        )
    by = f" by {event.actor}" if event.actor else ""
    if event.new == State.DISCARDED:
        return "discarded", "", f"Discarded{by}", str(data.get("note", ""))
    return "cancelled", "", f"Cancelled{by}", ""


def _problem(problem: dict[str, Any]) -> str:
    title, detail = str(problem.get("title", "")), str(problem.get("detail", ""))
    return ": ".join(dict.fromkeys(part for part in (title, detail) if part))


def _reason(reason: str) -> str:
    kind, _, rest = reason.partition(":")
    match kind:
        case "hold":
            return f"{_held(rest)} is on hold"
        case "no-worker":
            return f"no running worker has loaded {rest.removeprefix('agent:')}"
        case "cap":
            return "a spending cap is reached"
    return _REASONS.get(kind, reason)


_REASONS = {
    PARTITION: "an older task of the same partition key goes first",
    VERSION: "the agent’s program changed under it, so its finished steps no longer fit: redrive it from the start",
    UNKNOWN_HANDLER: "the worker that took it does not know this kind of job: start the right workers, then redrive it",
}


def _held(key: str) -> str:
    """Say what a hold stops, by its key."""
    kind, _, name = key.partition(":")
    return "everything" if key == EVERYTHING else f"{kind} {name}" if name else key
