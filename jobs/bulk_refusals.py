"""Why single jobs of an operation were refused, in words that can be counted: an operator reads them as a table."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from jobs import script
from jobs.actions import Changed, InvalidState
from jobs.models import JobEvent
from jobs.states import LIVE, State
from jobs.transitions import lock

#: As many different reasons are told apart; the rest are counted together.
MAX_REASONS = 20
OTHERS = "refused for other reasons"
#: Reasons that begin so tell that somebody else was first.
ALREADY = "already "


def add(refusals: Mapping[str, int], reason: str) -> dict[str, int]:
    """Return the counted reasons with one more."""
    key = reason if reason in refusals or len(refusals) < MAX_REASONS else OTHERS
    return {**refusals, key: refusals.get(key, 0) + 1}


def refused(error: InvalidState) -> str:
    """Return why an action refused a job, and who was first if somebody was."""
    state = State(error.state)
    if isinstance(error, Changed):
        return _already("redriven", error.by)
    if state in (State.CANCELLED, State.DISCARDED):
        return _already(state.value, _who(error.job_id, new=state.value))
    if state in LIVE and (by := _who(error.job_id, reason="redriven")):
        return _already("redriven", by)
    return f"{state.label.lower()} by then"


def asked_to_stop(job_id: UUID) -> str:
    """Lock a job; tell whether it runs and was asked to stop before, which an action takes for done."""
    job = script.run(lock(job_id))
    if job is None or job["state"] != State.RUNNING or job["cancel_requested_at"] is None:
        return ""
    return _already("asked to stop", _who(job_id, reason="cancel-requested"))


def _already(what: str, by: str) -> str:
    return f"{ALREADY}{what} by {by}" if by else f"{ALREADY}{what}"


def _who(job_id: UUID, **event: str) -> str:
    """Return who last brought such an event about; nothing if it was no person."""
    found = JobEvent.objects.filter(job_id=job_id, kind=JobEvent.Kind.STATE, **event).order_by("-id")
    return found.values_list("actor", flat=True).first() or ""
