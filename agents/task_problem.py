"""What went wrong with a task, as its page says it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agents import queries
from agents.models import Run
from agents.search import EXACTLY
from jobs.models import Job
from jobs.models.job import FINGERPRINT, HAS_ERROR
from jobs.queries import Bounded, bounded_count
from jobs.states import State

#: Tasks that failed alike are counted up to here.
ALIKE_UP_TO = 1_000
#: Findings that are shown.
FINDINGS = 20


@dataclass(frozen=True, slots=True)
class Problem:
    """The last problem of a task that has not succeeded since."""

    title: str
    detail: str
    #: The address of its explanation, or another word for its kind.
    type: str
    retriable: bool
    #: The class of the exception, and our innermost frame. Only operators are shown them.
    error: str
    at: str
    fingerprint: str
    #: Where the input (or the answer) does not fit, and why.
    findings: Sequence[tuple[str, str]]

    @classmethod
    def of(cls, run: Run) -> Problem | None:
        """Return a run's problem; it may be of any shape, for a program may have written it."""
        found = queries.error(run)
        if found is None:
            return None
        title, detail = _text(found, "title"), _text(found, "detail")
        return cls(
            title=title or detail or "It failed",
            detail=detail if title and detail != title else "",
            type=_text(found, "type"),
            retriable=bool(found.get("retriable", True)),
            error=_text(found, "error"),
            at=_text(found, "at"),
            fingerprint=_text(found, "fingerprint")[:200],
            findings=_findings(found.get("errors")),
        )

    @property
    def filter(self) -> str:
        """Return what the list of tasks is filtered by to show those that failed alike."""
        return EXACTLY + self.fingerprint

    def others(self, job: Job) -> Bounded:
        """Count the other tasks that failed alike: dead letters beside a dead letter, else whatever failed so."""
        failed = Job.objects.dead() if job.state == State.DEAD else Job.objects.filter(HAS_ERROR)
        if not self.fingerprint:
            return Bounded(0)
        return bounded_count(
            failed.alias(alike=FINGERPRINT).filter(alike=self.fingerprint).exclude(pk=job.pk), ALIKE_UP_TO
        )


def _text(found: dict[str, Any], name: str) -> str:
    value = found.get(name)
    return value if isinstance(value, str) else "" if value is None else str(value)


def _findings(errors: Any) -> list[tuple[str, str]]:
    if not isinstance(errors, list):
        return []
    return [
        (".".join(str(part) for part in error["loc"]), str(error.get("msg", "")))
        for error in errors[:FINDINGS]
        if isinstance(error, dict) and isinstance(error.get("loc"), list)
    ]
