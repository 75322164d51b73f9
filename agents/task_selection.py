"""Which tasks a bulk operation is about: some that were chosen, or all that a filter finds, whoever's they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from django.http import QueryDict

from agents.models import Run
from agents.modes import Mode
from agents.search import EXACTLY
from agents.task_list import ListFilter
from audit.time_limit import in_time
from jobs.bulk import Selector, Wanted
from jobs.models import Job
from jobs.models.job import FINGERPRINT, HAS_ERROR
from jobs.queries import Bounded, bounded_count
from jobs.states import State

NAME = "tasks"
#: As many tasks are chosen one by one; for more there is the filter.
CHOSEN_UP_TO = 500
#: Counting for a page is given up when it takes longer.
COUNT_TIMEOUT_S = 3.0

_NOUNS = {State.DEAD: "dead letters", "": "tasks"}


class BadSelection(ValueError):
    """What was sent names no tasks; the words say what to do."""


def selection_of(data: QueryDict, user: Any) -> tuple[dict[str, Any], str]:
    """Return the selection that a request asks for, with absolute times, and the same in words.

    Args:
        data: ``all`` with the parameters of the task list's address, or ``ids``.

    Raises:
        BadSelection: it names none, too many, or something that is no id.
    """
    if data.get("all"):
        chosen = ListFilter.read(data, user)
        frozen = chosen.frozen()
        return {"filter": frozen}, words(ListFilter(**frozen))
    asked = data.getlist("ids")
    if len(asked) > CHOSEN_UP_TO:
        raise BadSelection(
            f"At most {CHOSEN_UP_TO} tasks are chosen one by one. Narrow the list down and choose all that match."
        )
    ids = sorted({_id(text) for text in asked}, reverse=True)
    if not ids:
        raise BadSelection("Choose some tasks first: tick them in the list, or choose all that match.")
    return {"ids": [str(each) for each in ids]}, f"{len(ids)} chosen task{'' if len(ids) == 1 else 's'}"


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise BadSelection("One of these is not the id of a task. Choose them in the list again.") from None


def fields(selection: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the fields of a form that asks for the same selection again."""
    if "ids" in selection:
        return [("ids", each) for each in selection["ids"]]
    return [("all", "1"), *selection["filter"].items()]


def tasks(wanted: Wanted) -> QuerySet[Run]:
    """Return the tasks that are meant, the newest first."""
    runs = Run.objects.order_by("-job_id").filter(**wanted.lookups("job__"))
    if "ids" in wanted.selection:
        return runs.filter(job_id__in=wanted.selection["ids"])
    return ListFilter(**wanted.selection["filter"]).apply(runs)


def count(wanted: Wanted) -> Bounded | None:
    """Count the tasks that are meant, up to a bound; None if that takes too long."""
    return in_time(COUNT_TIMEOUT_S, lambda: bounded_count(tasks(wanted)))


def _ids(wanted: Wanted, below: UUID | None, limit: int) -> list[UUID]:
    runs = tasks(wanted)
    if below is not None:
        runs = runs.filter(job_id__lt=below)
    return list(runs.values_list("job_id", flat=True)[:limit])


SELECTOR = Selector(NAME, _ids)


def words(chosen: ListFilter) -> str:
    """Say a filter: ``dead letters of research.v1 that failed with Timeout``."""
    said = [_NOUNS.get(chosen.state, f"{chosen.state} tasks")]
    if chosen.endpoint:
        said.append(f"of {chosen.endpoint}")
    if chosen.agent:
        said.append(f"of agent {chosen.agent}")
    if chosen.user:
        said.append(f"of {chosen.user}")
    if chosen.lane:
        said.append(f"in lane {chosen.lane}")
    if chosen.mode:
        said.append(f"in mode {Mode(chosen.mode).label}")
    if chosen.q:
        said.append(f"with “{chosen.q}”")
    if chosen.error:
        said.append(f"that failed with {_failure(chosen.error)}")
    for name, _, meaning in chosen.chips():
        if name not in ("lane", "mode"):
            said.append(meaning[0].lower() + meaning[1:])
    return " ".join(said) if len(said) > 1 or chosen.state else "all tasks"


def _failure(text: str) -> str:
    """Return what a failure is called: the class of its exception or its title, where the text is a fingerprint."""
    fingerprint = text.removeprefix(EXACTLY)
    if text == EXACTLY:
        return "an error of no kind"
    alike = Job.objects.filter(HAS_ERROR).alias(alike=FINGERPRINT).filter(alike=fingerprint)
    problem = alike.values_list("error", flat=True).first()
    if not isinstance(problem, dict):
        return f"“{fingerprint}”"
    return str(problem.get("error") or f"“{problem.get('title') or fingerprint}”")[:120]
