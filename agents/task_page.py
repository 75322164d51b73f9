"""What the page of one task shows, read in a fixed number of statements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Q
from django.utils import timezone

from accounts import roles
from agents import answer, queries
from agents.answer import Answer
from agents.models import Run, Step
from agents.modes import policy
from agents.queries import BadCursor, Page
from jobs.models import Job, JobEvent, Wait
from jobs.states import ENDED, LIVE, REDRIVABLE, State
from jobs.timeline import Moment, Phase, in_words, phases, tell
from jobs.transitions import VERSION

STEPS_SHOWN = 100
EVENTS_SHOWN = 300
#: The width of the bar of phases, in its own units.
BAR = 1000
GAP = 2


@dataclass(frozen=True, slots=True)
class Stretch:
    """One piece of the bar of phases."""

    state: State
    x: int
    width: int


@dataclass(frozen=True, slots=True)
class TaskPage:
    """One task as its page shows it."""

    run: Run
    job: Job
    story: Sequence[Moment]
    stretches: Sequence[Stretch]
    #: How long it was in each state, in all.
    spent: Sequence[tuple[State, timedelta]]
    steps: Page[Step]
    epoch: int
    #: The page of steps that is shown is the first one.
    is_first: bool
    waits: Sequence[Wait]
    answer: Answer | None
    is_operator: bool

    @classmethod
    def read(cls, run: Run, user: Any, *, epoch: int | None = None, cursor: str = "") -> TaskPage:
        """Read all that the page needs. An epoch or a cursor that makes no sense is left out."""
        job = run.job
        shown = epoch if epoch is not None and 1 <= epoch <= run.journal_epoch else run.journal_epoch
        try:
            steps = queries.steps(run, epoch=shown, cursor=cursor, limit=STEPS_SHOWN, whole=False)
        except BadCursor:
            steps, cursor = queries.steps(run, epoch=shown, limit=STEPS_SHOWN, whole=False), ""
        told = Q(kind__in=[JobEvent.Kind.STATE, JobEvent.Kind.EMIT]) | Q(kind=JobEvent.Kind.STEP, reason="failed")
        events = list(reversed(job.events.filter(told).select_related("worker").order_by("-id")[:EVENTS_SHOWN]))
        stretches, spent = _bar(phases(events), timezone.now())
        return cls(
            run=run,
            job=job,
            story=tell(events),
            stretches=stretches,
            spent=spent,
            steps=steps,
            epoch=shown,
            is_first=not cursor,
            waits=list(job.waits.filter(resolved_at=None).order_by("id")[:20]) if job.state == State.WAITING else (),
            answer=answer.read(run.output, run.input) if run.output is not None else None,
            is_operator=roles.is_operator(user),
        )

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self.job.state in ENDED

    @property
    def can_cancel(self) -> bool:
        """Whether it can be asked to stop."""
        return self.job.state in LIVE and self.job.cancel_requested_at is None

    @property
    def is_stopping(self) -> bool:
        """Whether it was asked to stop and has yet to do so."""
        return self.job.state in LIVE and self.job.cancel_requested_at is not None

    @property
    def can_redrive(self) -> bool:
        """Whether it can be sent back."""
        return self.job.state in REDRIVABLE or (self.job.state == State.BLOCKED and VERSION in self.job.blocked_on)

    @property
    def can_edit(self) -> bool:
        """Whether it can be run again with another input."""
        return self.job.state in REDRIVABLE and policy(self.run.mode).concurrency.entrance == "tasks"

    @property
    def can_discard(self) -> bool:
        """Whether it can be given up."""
        return self.is_operator and self.job.state == State.DEAD

    @property
    def problem(self) -> dict[str, Any] | None:
        """The last thing that went wrong, unless the task succeeded after all."""
        return queries.error(self.run)

    @property
    def blocked_on(self) -> list[str]:
        """Why it is blocked, in words."""
        return in_words(self.job.blocked_on)

    @property
    def epochs(self) -> list[int]:
        """The journals there are, the newest first; only one unless it was redriven from the start."""
        return list(range(self.run.journal_epoch, 0, -1))

    @property
    def took(self) -> timedelta | None:
        """From its submission to its end."""
        return self.job.finished_at - self.job.created_at if self.job.finished_at else None

    @property
    def cost(self) -> Any:
        """What it has cost, or None where a price is not known."""
        return self.run.cost_usd if self.run.cost_known else None


def _bar(found: Sequence[Phase], now: datetime) -> tuple[list[Stretch], list[tuple[State, timedelta]]]:
    """Lay the phases side by side, each as wide as it was long, but none too thin to see."""
    lengths = [(phase.state, max((phase.ended or now) - phase.began, timedelta())) for phase in found]
    spent: dict[State, timedelta] = {}
    for state, length in lengths:
        spent[state] = spent.get(state, timedelta()) + length
    whole = sum((length for _, length in lengths), timedelta())
    if not whole:
        return [], list(spent.items())
    thin = 6
    widths = [max(thin, round(BAR * (length / whole))) for _, length in lengths]
    scale = BAR / sum(widths)
    stretches, x = [], 0.0
    for (state, _), width in zip(lengths, widths, strict=True):
        end = x + width * scale
        stretches.append(Stretch(state, round(x), max(1, round(end) - round(x) - GAP)))
        x = end
    return stretches, list(spent.items())
