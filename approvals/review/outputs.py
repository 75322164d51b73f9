"""What came out: the tasks that succeeded in a time, with what this person said of them."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from django.contrib.auth.models import User
from django.db.models import QuerySet
from django.utils.safestring import SafeString

from agents import answer, markdown, queries
from agents.models import Feedback, Run
from agents.queries import BadCursor
from approvals.review.happened import UNATTENDED
from approvals.review.window import Window
from audit.time_limit import in_time
from jobs.states import State

PAGE = 20
#: Characters of an answer that are shown before it is opened.
SHOWN = 20_000
LIMIT_S = 1.5


@dataclass(frozen=True, slots=True)
class Output:
    """One task's answer, and what this person said of it."""

    run: Run
    text: str
    is_cut: bool
    said: Feedback | None

    @property
    def html(self) -> SafeString:
        """Return the text as a document."""
        return markdown.render(self.text)


@dataclass(frozen=True, slots=True)
class Outputs:
    """A page of answers, newest first."""

    items: list[Output]
    next_cursor: str | None
    given_up: bool = False


def outputs(user: User, time: Window, *, graded: bool, cursor: str = "") -> Outputs:
    """Return the answers of a time: those that this person has yet to grade, or all of them.

    Raises:
        BadCursor: the cursor is none of these pages'.
    """
    found: QuerySet[Run] = (
        queries.visible_to(user)
        .filter(
            job__state=State.SUCCEEDED,
            job__finished_at__gte=time.since,
            job__finished_at__lt=time.until,
            mode__in=UNATTENDED,
        )
        .exclude(output=None)
    )
    if not graded:
        found = found.exclude(feedback__user=user)
    page = in_time(LIMIT_S, lambda: queries.page(found, cursor=cursor, limit=PAGE))
    if page is None:
        return Outputs([], None, given_up=True)
    said = {said.run_id: said for said in Feedback.objects.filter(user=user, run__in=[run.pk for run in page.items])}
    return Outputs([_output(run, said.get(run.pk)) for run in page.items], page.next_cursor)


def one(user: User, run_id: UUID) -> Output | None:
    """Return one task's answer as it stands in the list; None if it is not theirs to see."""
    run = queries.visible_to(user).filter(pk=run_id).first()
    return _output(run, Feedback.objects.filter(user=user, run=run).first()) if run is not None else None


def _output(run: Run, said: Feedback | None) -> Output:
    text = answer.text(run.output)
    return Output(run, text[:SHOWN], len(text) > SHOWN, said)


__all__ = ["BadCursor", "Output", "Outputs", "one", "outputs"]
