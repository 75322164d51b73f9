"""What the page of one task shows, read in a fixed number of statements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any
from uuid import UUID

from django.utils import timezone

from accounts import roles
from agents import answer, queries
from agents.answer import Answer
from agents.models import Conversation, Run, Step
from agents.modes import policy
from agents.queries import BadCursor, Page
from agents.task_effects import Outside
from agents.task_problem import Problem
from agents.task_redrive import Kept, can_redrive
from agents.task_requests import Asked, told_with
from agents.waiting import Waiting
from audit.models import AuditEntry
from jobs import lanes
from jobs.attempts import Generation, attempts, count
from jobs.history import History
from jobs.models import Hold, Job, Worker
from jobs.queries import Bounded
from jobs.states import ENDED, LIVE, REDRIVABLE, State
from jobs.timeline import Moment, Phase, in_words, phases, tell

STEPS_SHOWN = 100
#: A longer story is folded in the middle: its beginning and so many of its last moments stay in sight.
MOMENTS_SHOWN = 20
#: Other tasks that are linked, and holds.
LINKED = 20
#: The width of the bar of phases, in its own units.
BAR = 1000
GAP = 2


@dataclass(frozen=True, slots=True)
class Stretch:
    """One piece of the bar of phases."""

    state: State
    x: int
    width: int


@dataclass
class TaskPage:
    """One task as its page shows it. What only some states need is read when the page asks for it."""

    run: Run
    job: Job
    user: Any
    history: History
    steps: Page[Step]
    epoch: int
    #: The page of steps that is shown is the first one.
    is_first: bool
    #: An older part of the story is shown, not its end.
    is_past: bool
    problem: Problem | None
    answer: Answer | None
    is_operator: bool

    @classmethod
    def read(
        cls, run: Run, user: Any, *, epoch: int | None = None, cursor: str = "", before: int | None = None
    ) -> TaskPage:
        """Read all that the page needs. An epoch or a cursor that makes no sense is left out.

        Args:
            before: show the part of the story that ends before this event.
        """
        shown = epoch if epoch is not None and 1 <= epoch <= run.journal_epoch else run.journal_epoch
        try:
            steps = queries.steps(run, epoch=shown, cursor=cursor, limit=STEPS_SHOWN, whole=False)
        except BadCursor:
            steps, cursor = queries.steps(run, epoch=shown, limit=STEPS_SHOWN, whole=False), ""
        history = History.read(run.job, before=before)
        if before is not None and not history.events:
            history, before = History.read(run.job), None
        return cls(
            run=run,
            job=run.job,
            user=user,
            history=history,
            steps=steps,
            epoch=shown,
            is_first=not cursor,
            is_past=before is not None,
            problem=Problem.of(run),
            answer=answer.read(run.output, run.input) if run.output is not None else None,
            is_operator=roles.is_operator(user),
        )

    # --- What may be done with it -----------------------------------------------------------------------------------

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
        return can_redrive(self.job)

    @property
    def can_edit(self) -> bool:
        """Whether it can be run again with another input."""
        return self.job.state in REDRIVABLE and policy(self.run.mode).concurrency.entrance == "tasks"

    @property
    def can_discard(self) -> bool:
        """Whether it can be given up."""
        return self.is_operator and self.job.state == State.DEAD

    @cached_property
    def kept(self) -> Kept:
        """What a redrive from the last step keeps."""
        return Kept.of(self.run)

    @cached_property
    def outside(self) -> Outside:
        """What it did outside."""
        return Outside.of(self.run, self.user)

    # --- Its story --------------------------------------------------------------------------------------------------

    @cached_property
    def story(self) -> Sequence[Moment]:
        """What happened, oldest first; what people were asked and what they said, too."""
        found = tell(self.history.events, lane=self.job.home_lane)
        return told_with(
            found,
            self.asked.requests,
            self.asked.links,
            after=found[0].at if found and self.history.earlier else None,
            before=found[-1].at if found and self.is_past else None,
        )

    @cached_property
    def asked(self) -> Asked:
        """What people were asked about it, and what it is parked for."""
        is_parked = self.job.state == State.WAITING
        if not is_parked and not any(event.new == State.WAITING for event in self.history.events):
            return Asked()
        return Asked.read(self.run.pk, self.user, is_parked=is_parked)

    @property
    def story_folded(self) -> tuple[Sequence[Moment], Sequence[Moment], Sequence[Moment]]:
        """The story's beginning, what is folded of it, and its end."""
        story = self.story
        if len(story) <= MOMENTS_SHOWN + 2:
            return (), (), story
        return story[:1], story[1:-MOMENTS_SHOWN], story[-MOMENTS_SHOWN:]

    @cached_property
    def generations(self) -> list[Generation]:
        """Each time that a worker took it, the newest first, between one redrive and the next."""
        due = self.job.run_at if self.job.state == State.SCHEDULED and not self.is_past else None
        return attempts(self.history, next_at=due)

    @property
    def attempts(self) -> int:
        """How many attempts are listed."""
        return count(self.generations)

    @cached_property
    def bar(self) -> tuple[list[Stretch], list[tuple[State, timedelta]]]:
        """The bar of phases, and how long it was in each state in all."""
        return _bar(phases(self.history.events), timezone.now())

    @property
    def stretches(self) -> list[Stretch]:
        """The pieces of the bar of phases."""
        return self.bar[0]

    @property
    def spent(self) -> list[tuple[State, timedelta]]:
        """How long it was in each state, in all."""
        return self.bar[1]

    @property
    def epochs(self) -> list[int]:
        """The journals there are, the newest first; only one unless it was redriven from the start."""
        return list(range(self.run.journal_epoch, 0, -1))[:LINKED]

    # --- Why it does not go on --------------------------------------------------------------------------------------

    @property
    def blocked_on(self) -> list[str]:
        """Why it is blocked, in words."""
        return in_words(self.job.blocked_on)

    @cached_property
    def waits(self) -> Sequence[Waiting]:
        """What it is parked for."""
        return self.asked.waits

    @cached_property
    def holds(self) -> Sequence[Hold]:
        """The holds that stop it, or will when its time comes: with whoever placed them, so only for operators."""
        if not self.is_operator or self.job.state not in (State.BLOCKED, State.QUEUED, State.SCHEDULED):
            return ()
        return list(Hold.objects.filter(key__in=self.job.hold_keys).order_by("placed_at")[:LINKED])

    @cached_property
    def is_unserved(self) -> bool:
        """Whether it is queued in a lane that no worker serves."""
        if self.job.state != State.QUEUED:
            return False
        return not Worker.objects.alive().filter(lanes__contains=[self.job.lane]).exists()

    @property
    def is_suspect(self) -> bool:
        """Whether it runs, or last ran, alone in a process of its own."""
        return self.job.lane == lanes.SUSPECT

    # --- Where it comes from and what is like it --------------------------------------------------------------------

    @property
    def is_chat(self) -> bool:
        """Whether it is a reply in the chat."""
        return policy(self.run.mode).concurrency.entrance == "chat"

    @property
    def is_forgotten(self) -> bool:
        """Whether what it was asked was deleted with its conversation."""
        return self.run.input == "" and "conversation" in self.job.payload

    @cached_property
    def conversation(self) -> UUID | None:
        """The conversation that it belongs to, if it is the reader's own."""
        try:
            named = UUID(str(self.job.payload["conversation"]))
        except (KeyError, TypeError, ValueError):
            return None
        if self.run.user_id != self.user.pk:
            return None
        return named if Conversation.objects.filter(pk=named, user_id=self.user.pk).exists() else None

    @cached_property
    def submission(self) -> AuditEntry | None:
        """Who submitted it from where, for operators; None where nobody wrote it down."""
        if not self.is_operator or self.is_chat:
            return None
        found = AuditEntry.objects.filter(target_type="job", target_id=str(self.job.pk), action="task.submit")
        return found.order_by("id").first()

    @cached_property
    def copies(self) -> Sequence[Run]:
        """The tasks that were made of it with another input, the newest first."""
        return list(self.run.redrives.select_related("job").order_by("-job_id")[:LINKED])

    @cached_property
    def alike(self) -> Bounded | None:
        """How many other tasks failed like it, for operators; None where nothing groups them."""
        if not self.is_operator or self.problem is None or not self.problem.fingerprint:
            return None
        return self.problem.others(self.job)

    # --- Figures ----------------------------------------------------------------------------------------------------

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
    lengths = [(phase.state, (phase.ended or now) - phase.began) for phase in found]
    # What was passed in the same moment took no time: a reply in the chat never queues.
    lengths = [(state, length) for state, length in lengths if length > timedelta()]
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
