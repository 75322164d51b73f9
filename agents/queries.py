"""Reads of tasks, shared by the API, the commands and the console."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from uuid import UUID

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.db.models import F, Func, Model, QuerySet, TextField, Value
from django.db.models.functions import Left

from accounts import roles
from agents.models import AgentVersion, Endpoint, Run, Step
from agents.modes import POLICIES
from agents.search import between, search
from agents.search import by_id as by_id
from jobs.models import Job
from jobs.states import State

T = TypeVar("T")
M = TypeVar("M", bound=Model)

_FIRST_TEXT = Value('$.arguments.* ? (@.type() == "string")')
_ABOUT = Left(
    Func(F("input"), _FIRST_TEXT, template="(jsonb_path_query_first(%(expressions)s::jsonpath) #>> '{}')"),
    200,
    output_field=TextField(),
)


class BadCursor(ValueError):
    """The cursor is none that a list answered."""


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Which tasks. Empty means all; ``q`` is words of the input, each may be the beginning of one, or a task's id."""

    status: Sequence[str] = ()
    endpoint: str = ""
    agent: str = ""
    q: str = ""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list, and the cursor of the next part; None at the end."""

    items: list[T]
    next_cursor: str | None


def cut(found: QuerySet[M], limit: int, place: Callable[[M], object]) -> Page[M]:
    """Return the first ``limit`` rows as a page; the cursor of the next one holds the ``place`` of the last row."""
    rows = list(found[: limit + 1])
    more = len(rows) > limit
    return Page(rows[:limit], encode(place(rows[limit - 1])) if more else None)


def visible_to(user: AbstractBaseUser | AnonymousUser) -> QuerySet[Run]:
    """Return the tasks a user may see: their own, or all for an operator. Newest first."""
    runs = Run.objects.select_related("job", "endpoint", "agent", "user").order_by("-job_id")
    if roles.is_operator(user):
        return runs
    return of_user(runs, user.pk) if user.pk is not None else runs.none()


def of_user(runs: QuerySet[Run], *ids: int) -> QuerySet[Run]:
    """Narrow the tasks down to those of some users, by the job: its index has each one's newest first."""
    return runs.filter(job__user_id__in=ids)


def matching(runs: QuerySet[Run], wanted: TaskFilter) -> QuerySet[Run]:
    """Narrow the tasks down.

    Names are looked up first: knowing their ids, the planner finds the index that serves them.
    """
    if wanted.status:
        runs = runs.filter(job__state__in=wanted.status)
    if wanted.endpoint:
        runs = runs.filter(endpoint_id__in=ids_of(Endpoint.objects.filter(name=wanted.endpoint)))
    if wanted.agent:
        runs = runs.filter(agent_id__in=ids_of(AgentVersion.objects.filter(name=wanted.agent)))
    if wanted.q:
        runs = search(runs, wanted.q)
    return runs


def submitted(runs: QuerySet[Run]) -> QuerySet[Run]:
    """Leave out runs that nobody submitted as a task: the replies of a chat are runs too."""
    modes = [policy.mode.value for policy in POLICIES.values() if policy.concurrency.entrance == "tasks"]
    return runs.filter(mode__in=modes)


def ids_of(rows: QuerySet[Any]) -> list[int]:
    """Return the ids of a few rows that a list is filtered by."""
    return list(rows.values_list("pk", flat=True))


def page(runs: QuerySet[Run], *, cursor: str = "", limit: int = 50) -> Page[Run]:
    """Return one page of tasks, newest first. A page costs the same however deep it lies.

    Raises:
        BadCursor: it was not made here.
    """
    if cursor:
        runs = between(runs, end=decode(cursor, UUID))
    return cut(runs, limit, lambda run: run.job_id)


def steps(run: Run, *, epoch: int | None = None, cursor: str = "", limit: int = 50, whole: bool = True) -> Page[Step]:
    """Return the journal of a run in the order of its steps: of its current epoch, or of an older one.

    Args:
        whole: with what went in and came out, which can be large. Without it each step has ``about``: the first text
            among a tool's arguments, if there is one.

    Raises:
        BadCursor: it was not made here.
    """
    found = Step.objects.filter(run=run, epoch=epoch or run.journal_epoch).order_by("id")
    if not whole:
        found = found.defer("input", "output").annotate(about=_ABOUT)
    if cursor:
        found = found.filter(id__gt=decode(cursor, int))
    return cut(found, limit, lambda step: step.pk)


def attempt(job: Job) -> int:
    """Return the number of the attempt that is under way or was the last, 0 before the first.

    A run that was handed back, or taken from a worker that died, is still in the attempt that it was in.
    """
    failed = job.attempt + job.crashes
    if job.started_at is None or job.state in (State.DEAD, State.DISCARDED, State.SCHEDULED):
        return failed
    return failed + 1


def usage(run: Run) -> dict[str, Any]:
    """Return what a run has used. The cost is None once a model without a known price was used."""
    return {
        "input_tokens": run.input_tokens,
        "output_tokens": run.output_tokens,
        "cost_usd": float(run.cost_usd) if run.cost_known else None,
    }


def error(run: Run) -> dict[str, Any] | None:
    """Return the last problem of a run that has not succeeded; what is none is told as one's detail."""
    found = None if run.job.state == State.SUCCEEDED else run.job.error
    return found if found is None or isinstance(found, dict) else {"detail": str(found)}


def encode(value: object) -> str:
    """Return a cursor that holds a value."""
    return base64.urlsafe_b64encode(str(value).encode()).decode().rstrip("=")


def decode(cursor: str, kind: Callable[[str], T]) -> T:
    """Return what a cursor holds, made of its text by ``kind``.

    Raises:
        BadCursor: it was not made by `encode`, or holds something else.
    """
    try:
        return kind(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode())
    except (ValueError, OverflowError):
        raise BadCursor("This cursor was not made by this list.") from None
