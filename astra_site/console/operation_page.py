"""What the pages of operations show: how far one has come, what was refused and why, and the tasks it is about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Q
from django.utils import timezone
from django.utils.http import urlencode

from agents import queries
from agents.models import Run
from agents.queries import BadCursor, Page
from astra_site.console import operation_outcome
from astra_site.console.operation_form import DONE
from astra_site.console.operation_outcome import Outcome
from astra_site.templatetags.look import roughly
from jobs import bulk
from jobs.bulk_refusals import ALREADY
from jobs.ids import since
from jobs.models import BulkOperation

TASKS_SHOWN = 10
MEANWHILE_SHOWN = 3
#: An operation that nobody has taken for so long waits for something.
TAKEN_UP_WITHIN = timedelta(seconds=5)
#: As many of the reasons that name somebody stand in the headline; all are in the table.
NAMED = 3

#: The icon and the hue of each state.
MARKS = {
    "pending": ("queued", ""),
    "running": ("running", "busy"),
    "finished": ("succeeded", "good"),
    "stopped": ("cancelled", "warn"),
    "failed": ("dead", "bad"),
}


@dataclass(frozen=True, slots=True)
class Progress:
    """An operation and what its numbers say."""

    operation: BulkOperation
    now: datetime
    #: What came of its tasks; None where that was not counted.
    came: Outcome | None = None

    @property
    def mark(self) -> str:
        """The icon of its state."""
        return "warning" if self._failed_again else MARKS[self.operation.state][0]

    @property
    def hue(self) -> str:
        """The hue of its state. A redrive is good only once its tasks are known to have gone well."""
        if self._failed_again:
            return "warn"
        if self._is_redriven and (self.came is None or self.came.goes_on):
            return ""
        return MARKS[self.operation.state][1]

    @property
    def _is_redriven(self) -> bool:
        operation = self.operation
        return operation.verb == BulkOperation.Verb.REDRIVE and operation.state == BulkOperation.State.FINISHED

    @property
    def _failed_again(self) -> bool:
        return self._is_redriven and self.came is not None and self.came.failed_again

    @property
    def done(self) -> int:
        """How many tasks it has looked at."""
        return self.operation.changed + self.operation.refused

    @property
    def past(self) -> str:
        """What becomes of a task."""
        return DONE[self.operation.verb]

    @property
    def reasons(self) -> list[tuple[str, int]]:
        """Why tasks were refused, the most frequent reason first."""
        return sorted(self.operation.refusals.items(), key=lambda item: (-item[1], item[0]))

    @property
    def outcome(self) -> str:
        """What it has come to in one sentence: ``0 redriven; 50 were already redriven by alice.``"""
        named = [(reason, number) for reason, number in self.reasons if reason.startswith(ALREADY)][:NAMED]
        rest = self.operation.refused - sum(number for _, number in named)
        said = [f"{self.operation.changed:,} {self.past}"]
        said += [f"{number:,} {'was' if number == 1 else 'were'} {reason}" for reason, number in named]
        said += [f"{rest:,} {'was' if rest == 1 else 'were'} refused"] if rest else []
        return f"{'; '.join(said)}."

    @property
    def expected(self) -> str:
        """As many as were counted when it was asked for, in words; nothing if they were not."""
        operation = self.operation
        if not operation.expected_more:
            return f"{operation.expected:,}"
        return f"more than {operation.expected:,}" if operation.expected else ""

    @property
    def bar(self) -> tuple[int, int] | None:
        """How far it has come, of what; None as long as its end is open."""
        operation = self.operation
        if operation.state == BulkOperation.State.FINISHED:
            return 1, 1
        if not operation.expected_more:
            return self.done, max(operation.expected, 1)
        return (self.done, max(operation.expected, self.done) + 1) if operation.has_ended else None

    @property
    def took(self) -> timedelta | None:
        """How long it has been worked on, other operations' turns in between included."""
        begun = self.operation.started_at
        return max((self.operation.finished_at or self.now) - begun, timedelta()) if begun else None

    @property
    def rate(self) -> float | None:
        """Tasks a second; None as long as that would be a guess."""
        seconds = self.took.total_seconds() if self.took else 0
        return self.done / seconds if seconds >= 1 and self.done else None

    @property
    def pace(self) -> str:
        """The rate in words; nothing as long as it would be a guess."""
        if self.rate is None:
            return ""
        return f"{self.rate:,.0f} tasks a second" if self.rate >= 9.95 else f"{self.rate:.1f} tasks a second"

    @property
    def left(self) -> str:
        """How long it will go on at this rate, in words; nothing if nobody knows."""
        operation = self.operation
        if operation.has_ended or operation.expected_more or self.rate is None:
            return ""
        return roughly(max(0, operation.expected - self.done) / self.rate)

    @property
    def is_left(self) -> bool:
        """Whether nobody has worked on it for a while, though it has not ended."""
        operation = self.operation
        if operation.has_ended or (operation.taken_until is not None and operation.taken_until > self.now):
            return False
        times = (operation.created_at, operation.worked_at, operation.taken_until)
        return max(at for at in times if at is not None) < self.now - TAKEN_UP_WITHIN


@dataclass(frozen=True, slots=True)
class OperationPage:
    """One operation as its page shows it."""

    progress: Progress
    #: The parameters of the task list that it was asked for with; None where tasks were chosen one by one.
    filter: dict[str, str] | None
    #: The tasks it is about; None where they are too many to be fixed.
    tasks: Page[Run] | None
    is_first: bool
    #: The tasks on the page are those that have come to this; all of them if it is empty.
    group: str
    #: The same done to others, or by others to the same, while it went on.
    meanwhile: Sequence[BulkOperation]
    #: Some scheduler works on operations.
    is_somebody_there: bool

    @classmethod
    def read(cls, operation_id: UUID, *, cursor: str = "", group: str = "") -> OperationPage:
        """Read all that the page needs, in a fixed number of statements. What makes no sense is left out.

        Args:
            cursor: where the page of tasks begins.
            group: show the tasks that have come to this, a key of the outcome.

        Raises:
            BulkOperation.DoesNotExist: there is no such operation.
        """
        rows = BulkOperation.objects.filter(pk=operation_id)
        operation = rows.defer("selection").get()
        chosen, is_fixed = rows.annotate(fixed=Q(selection__has_key=bulk.FIXED)).values_list(
            "selection__filter", "fixed"
        )[0]
        is_counted = is_fixed and operation.verb == BulkOperation.Verb.REDRIVE
        came = operation_outcome.read(operation) if is_counted else None
        progress = Progress(operation, timezone.now(), came)
        group = group if is_counted and operation_outcome.words_of(group) else ""
        taken = BulkOperation.objects.filter(taken_until__gt=progress.now, state=BulkOperation.State.RUNNING)
        page, is_first = _tasks(operation, cursor, group) if is_fixed else (None, True)
        return cls(
            progress=progress,
            filter=chosen,
            tasks=page,
            is_first=is_first,
            group=group,
            meanwhile=_meanwhile(operation, progress.now),
            is_somebody_there=progress.is_left and taken.exists(),
        )

    @property
    def goes_on(self) -> bool:
        """Whether something on the page will still change."""
        came = self.progress.came
        return not self.progress.operation.has_ended or (came is not None and came.goes_on)

    @property
    def tells_outcome(self) -> bool:
        """Whether a reader wants to know what came of its tasks."""
        return self.progress.operation.verb == BulkOperation.Verb.REDRIVE and self.progress.done > 0

    @property
    def group_words(self) -> str:
        """What the tasks on the page have come to; nothing if they are all."""
        return operation_outcome.words_of(self.group)

    @property
    def query(self) -> str:
        """The parameters of the task list that show what matches now."""
        return urlencode(self.filter or {})


def _tasks(operation: BulkOperation, cursor: str, group: str) -> tuple[Page[Run], bool]:
    runs = Run.objects.filter(job_id__in=bulk.fixed_ids(operation.pk))
    runs = operation_outcome.of_group(runs, operation, group) if group else runs
    runs = runs.select_related("job", "endpoint", "user").order_by("-job_id")
    try:
        return queries.page(runs, cursor=cursor, limit=TASKS_SHOWN), not cursor
    except BadCursor:
        return queries.page(runs, limit=TASKS_SHOWN), True


def _meanwhile(operation: BulkOperation, now: datetime) -> Sequence[BulkOperation]:
    """Return operations with the same verb that were under way while this one was."""
    oldest = since((now - operation.created_at).total_seconds() + timedelta(days=2).total_seconds())
    others: Any = BulkOperation.objects.defer("selection").exclude(pk=operation.pk)
    others = others.filter(verb=operation.verb, pk__gte=oldest, created_at__lt=operation.finished_at or now)
    others = others.filter(Q(finished_at=None) | Q(finished_at__gt=operation.created_at))
    return list(others.order_by("-pk")[:MEANWHILE_SHOWN])
