"""What the page shows on which an operator confirms a change of many tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.http import QueryDict
from django.urls import reverse
from django.utils import timezone
from django.utils.http import urlencode

from agents import task_selection
from agents.models import Run
from audit.time_limit import in_time
from jobs.bulk import FORM_S, STATES, UnknownVerb, Wanted
from jobs.ids import since, uuid7
from jobs.models import BulkOperation
from jobs.queries import Bounded
from jobs.states import State

SAMPLE = 5
#: What others began so lately is shown before a person confirms the same.
LATELY = timedelta(minutes=10)
LATELY_SHOWN = 3

#: What a verb makes of tasks.
DONE = {"redrive": "redriven", "cancel": "cancelled", "discard": "discarded"}


@dataclass(frozen=True, slots=True)
class Proposal:
    """A change of many tasks that somebody has yet to confirm."""

    verb: str
    selection: dict[str, Any]
    words: str
    #: How many tasks it is about; None if counting took too long.
    count: Bounded | None
    #: How many of the selection are in a state in which this can't be done; None if that is not known.
    left_out: Bounded | None
    sample: Sequence[Run]
    #: The same verb, asked for by anybody in the last minutes.
    lately: Sequence[BulkOperation]
    #: The id that the operation will have.
    id: UUID

    @classmethod
    def read(cls, data: QueryDict, user: Any) -> Proposal:
        """Read what is asked for.

        Raises:
            UnknownVerb, BadSelection: it makes no sense.
        """
        verb = data.get("verb", "")
        if verb not in STATES:
            raise UnknownVerb("Choose what to do with the tasks: redrive, cancel or discard.")
        selection, words = task_selection.selection_of(data, user)
        wanted = Wanted(selection, STATES[verb])
        count = task_selection.count(wanted)
        lately = BulkOperation.objects.filter(
            verb=verb, pk__gte=since(FORM_S + LATELY.total_seconds()), created_at__gt=timezone.now() - LATELY
        )
        return cls(
            verb=verb,
            selection=selection,
            words=words,
            count=count,
            left_out=_left_out(wanted, count),
            sample=_sample(wanted) if count is None or count else (),
            lately=list(lately.defer("selection").order_by("-created_at")[:LATELY_SHOWN]),
            id=uuid7(),
        )

    @property
    def is_empty(self) -> bool:
        """Whether there is surely nothing to do."""
        return self.count is not None and not self.count

    @property
    def tasks(self) -> str:
        """How many tasks, in words."""
        if self.count is None:
            return "all tasks that match"
        number = f"more than {self.count.number:,}" if self.count.more else f"{self.count.number:,}"
        return f"{number} task{'' if number == '1' else 's'}"

    @property
    def fields(self) -> list[tuple[str, str]]:
        """The fields that ask for the same again."""
        return [("verb", self.verb), *task_selection.fields(self.selection)]

    @property
    def list_url(self) -> str:
        """The address of the list in which these tasks stand."""
        query = urlencode(self.selection.get("filter") or {})
        return reverse("tasks") + (f"?{query}" if query else "")

    @property
    def states(self) -> str:
        """What tasks must be for this, in words."""
        return {
            "redrive": "dead letters nor cancelled",
            "cancel": "scheduled, blocked, queued, running nor waiting",
            "discard": "dead letters",
        }[self.verb]


def _sample(wanted: Wanted) -> Sequence[Run]:
    runs = task_selection.tasks(wanted).select_related("job", "endpoint", "user")
    return in_time(task_selection.COUNT_TIMEOUT_S, lambda: list(runs[:SAMPLE])) or ()


def _left_out(wanted: Wanted, count: Bounded | None) -> Bounded | None:
    state = wanted.selection.get("filter", {}).get("state")
    if state in wanted.states:
        return Bounded(0)
    if count is None or count.more:
        return None
    every = task_selection.count(Wanted(wanted.selection, State.values))
    return Bounded(every.number - count.number, every.more) if every is not None else None
