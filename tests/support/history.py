"""What a test asks of a job: its row, its story, and what its handler wrote down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from jobs.models import Job, JobEvent
from jobs.submit import Submission, submit


@dataclass(frozen=True, slots=True)
class Line:
    """One line that a test's handler wrote: what it did, in which process, under which fence."""

    word: str
    pid: int
    fence: int


@dataclass(frozen=True, slots=True)
class Tracked:
    """A job that a test submitted, and the file its handler writes to."""

    id: UUID
    file: Path

    def row(self) -> Job:
        """Return its row as it is now."""
        return Job.objects.get(id=self.id)

    def is_in(self, *states: str) -> Callable[[], bool]:
        """Return a condition: the job is in one of these states."""
        return lambda: Job.objects.filter(id=self.id, state__in=states).exists()

    def has_written(self, word: str) -> Callable[[], bool]:
        """Return a condition: the handler has written that word."""
        return lambda: word in self.words()

    def lines(self) -> list[Line]:
        """Return what its handler wrote, in order."""
        if not self.file.exists():
            return []
        found = (line.split() for line in self.file.read_text().splitlines())
        return [Line(word, int(pid), int(fence)) for job_id, word, pid, fence in found if job_id == str(self.id)]

    def words(self) -> list[str]:
        """Return the words that its handler wrote, in order."""
        return [line.word for line in self.lines()]

    def events(self, *reasons: str) -> list[JobEvent]:
        """Return its events in order, all or those with one of these reasons."""
        found = JobEvent.objects.filter(job_id=self.id).order_by("id")
        return list(found.filter(reason__in=reasons) if reasons else found)

    def changes(self) -> list[str]:
        """Return the reasons of its changes of state, in order."""
        return [event.reason for event in self.events() if event.kind == "state"]

    def claimed_at(self, fence: int) -> datetime:
        """Return when the claim with that fence was made."""
        return next(event.at for event in self.events("claimed") if event.fence == fence)

    def recorded(self) -> list[int]:
        """Return the numbers of the steps that were recorded, in order."""
        return [event.data["number"] for event in self.events() if event.kind == "step" and event.data]


def track(
    handler: str, file: Path, *, lane: str = "queue", payload: dict[str, Any] | None = None, **more: Any
) -> Tracked:
    """Submit a job to one of the tests' handlers."""
    content = {"file": str(file), **(payload or {})}
    return Tracked(submit(Submission(f"test.{handler}", content, lane, **more)).job_id, file)
