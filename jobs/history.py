"""Read what happened to one job, newest part first, however long it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from django.db.models import Q

from jobs.models import Job, JobEvent
from jobs.states import State

#: Changes of state that are read at once.
CHANGES = 300
#: Failed steps and published events that are read beside them: a run may make any number of them.
NOTES = 200

_NOTE = Q(kind=JobEvent.Kind.EMIT) | Q(kind=JobEvent.Kind.STEP, reason="failed")


@dataclass(frozen=True, slots=True)
class History:
    """A part of a job's story: every change of state in it, its failed steps and what it published."""

    #: Oldest first.
    events: Sequence[JobEvent]
    #: The job's generation at the end of this part.
    generation: int
    #: Read on before this event; None where this is the beginning.
    earlier: int | None
    #: Some of the failed steps and published events in this part are left out, the older ones.
    notes_left_out: bool = False

    @classmethod
    def read(cls, job: Job, *, before: int | None = None) -> History:
        """Read the last part, or the one that ends before an event. Two statements, for an older part three."""
        # A request to stop leaves the job running: it is told with the changes, but begins nothing new.
        changes = job.events.filter(kind=JobEvent.Kind.STATE)
        notes = job.events.filter(_NOTE)
        generation = job.generation
        if before is not None:
            later = changes.filter(reason="redriven", id__gte=before).order_by("id").first()
            generation = _begun(later) - 1 if later is not None else job.generation
            changes, notes = changes.filter(id__lt=before), notes.filter(id__lt=before)
        found = list(changes.select_related("worker").order_by("-id")[: CHANGES + 1])
        earlier = None
        if len(found) > CHANGES:
            found.pop()
            earlier = found[-1].pk
            notes = notes.filter(id__gt=earlier)
        beside = list(notes.order_by("-id")[: NOTES + 1])
        events = sorted([*found, *beside[:NOTES]], key=lambda event: event.pk)
        return cls(events, max(1, generation), earlier, len(beside) > NOTES)

    @property
    def first_generation(self) -> int:
        """Return the job's generation at the beginning of this part."""
        return max(1, self.generation - sum(is_redrive(event) for event in self.events))


def is_change(event: JobEvent) -> bool:
    """Tell whether the job went from one state to another."""
    return event.kind == JobEvent.Kind.STATE and event.old != event.new


def is_redrive(event: JobEvent) -> bool:
    """Tell whether a new generation began."""
    return event.kind == JobEvent.Kind.STATE and event.reason == "redriven"


def is_claim(event: JobEvent) -> bool:
    """Tell whether a worker took the job."""
    return is_change(event) and event.new == State.RUNNING


def _begun(event: JobEvent) -> int:
    found = (event.data or {}).get("generation")
    return found if type(found) is int else 1
