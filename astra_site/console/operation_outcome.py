"""What came of the tasks that an operation redrove: counted as they are now, by state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from django.db.models import Case, CharField, Count, F, Q, QuerySet, Value, When

from agents.models import Run
from audit.time_limit import in_time
from jobs import bulk
from jobs.models import BulkOperation, Job
from jobs.states import LIVE, REDRIVABLE, State

#: Counting may take so long; then the page says that it could not.
COUNT_TIMEOUT_S = 1.0
#: From this share of those that ended on, many failed again.
MANY = 0.1
#: Those that nobody has redriven since the operation was asked for.
UNTOUCHED = "untouched"

#: The groups in the order in which they are told, with their words for one and for many.
_WORDS: dict[str, tuple[str, str]] = {
    State.SUCCEEDED: ("succeeded", "succeeded"),
    State.RUNNING: ("running", "running"),
    State.WAITING: ("waiting", "waiting"),
    State.QUEUED: ("queued", "queued"),
    State.BLOCKED: ("blocked", "blocked"),
    State.SCHEDULED: ("scheduled", "scheduled"),
    State.CANCELLED: ("cancelled", "cancelled"),
    State.DISCARDED: ("discarded", "discarded"),
    State.DEAD: ("dead letter again", "dead letters again"),
    UNTOUCHED: ("not redriven", "not redriven"),
}
#: They are told even if there is none.
_ALWAYS = (State.SUCCEEDED, State.DEAD)


@dataclass(frozen=True, slots=True)
class Group:
    """So many of the tasks have come to the same."""

    key: str
    number: int

    @property
    def words(self) -> str:
        """What they have come to."""
        return _WORDS[self.key][self.number != 1]

    @property
    def is_bad(self) -> bool:
        """Whether they failed again."""
        return self.key == State.DEAD and self.number > 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of the tasks of one operation."""

    numbers: Mapping[str, int]

    @property
    def groups(self) -> list[Group]:
        """The numbers in the order in which they are told."""
        found = [Group(key, self.numbers.get(key, 0)) for key in _WORDS]
        return [group for group in found if group.number or group.key in _ALWAYS]

    @property
    def goes_on(self) -> bool:
        """Whether some of them have not ended."""
        return any(self.numbers.get(state) for state in LIVE)

    @property
    def failed_again(self) -> bool:
        """Whether many of those that ended are dead letters again."""
        dead = self.numbers.get(State.DEAD, 0)
        return dead > 0 and dead >= MANY * (dead + self.numbers.get(State.SUCCEEDED, 0))


def read(operation: BulkOperation) -> Outcome | None:
    """Count the tasks that the operation was fixed to, in one statement; None if that takes too long."""
    jobs = Job.objects.filter(pk__in=bulk.fixed_ids(operation.pk))
    group = Case(
        When(_untouched(operation), then=Value(UNTOUCHED)), default=F("state"), output_field=CharField(max_length=10)
    )
    counted = jobs.order_by().annotate(group=group).values_list("group").annotate(number=Count("pk"))
    numbers = in_time(COUNT_TIMEOUT_S, lambda: dict(counted))
    return None if numbers is None else Outcome(numbers)


def words_of(key: str) -> str:
    """Return what the tasks of a group have come to; nothing if there is no such group."""
    return _WORDS[key][1] if key in _WORDS else ""


def of_group(runs: QuerySet[Run], operation: BulkOperation, key: str) -> QuerySet[Run]:
    """Narrow the tasks down to those of a group."""
    untouched = _untouched(operation, "job__")
    return runs.filter(untouched) if key == UNTOUCHED else runs.filter(~untouched, job__state=key)


def _untouched(operation: BulkOperation, prefix: str = "") -> Q:
    """All had ended when they were chosen: who ended later was redriven in between."""
    return Q(
        (f"{prefix}state__in", [state.value for state in REDRIVABLE]),
        (f"{prefix}finished_at__isnull", False),
        (f"{prefix}finished_at__lte", operation.created_at),
    )
