"""What the page of a conversation shows, read in a fixed number of statements however long it is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any
from uuid import UUID

from django.db.models import F, Func, JSONField
from django.utils.safestring import SafeString

from agents import markdown
from agents.chat.step_words import TOLD, decision_words, has_words, is_decision, readable, words
from agents.models import Conversation, Message, Step
from agents.waiting import Waiting, waits_for
from jobs.models import JobEvent

#: Messages on one page of the transcript.
PAGE = 50
#: Steps of one answer that are shown; the run's own page in the console has all.
STEPS = 100
#: A longer answer is rendered anew each time: keeping a few of those would fill the memory.
_KEPT_UP_TO = 20_000

Status = Message.Status
#: Kinds of steps that a person is shown; of waits only what people decided.
SHOWN = (Step.Kind.TOOL, Step.Kind.STEP, Step.Kind.WAIT)


@dataclass(frozen=True, slots=True)
class Line:
    """One step of an answer, in a line. ``status`` is ``started``, ``finished`` or ``failed``."""

    key: str
    name: str
    kind: str
    status: str
    words: str
    took: timedelta | None
    #: There is more to show: what went in and what came out.
    opens: bool
    at: datetime


@dataclass(frozen=True, slots=True)
class Entry:
    """One message as the transcript shows it."""

    message: Message
    steps: Sequence[Line]
    #: What the answer waits for, if it does.
    waits: Sequence[Waiting] = ()

    @property
    def is_users(self) -> bool:
        """Whether the person said it."""
        return self.message.role == Message.Role.USER

    @property
    def is_writing(self) -> bool:
        """Whether it is being written."""
        return self.message.status == Status.WRITING

    @property
    def html(self) -> SafeString:
        """The answer's text as sanitised HTML."""
        return rendered(self.message.text)

    @property
    def problem(self) -> Mapping[str, Any] | None:
        """Why it failed, in words; None if it has not."""
        if self.message.status != Status.FAILED:
            return None
        told = self.message.problem if isinstance(self.message.problem, dict) else {}
        return {
            "title": told.get("title") or "The answer failed",
            "detail": told.get("detail") or "",
            "about": about if str(about := told.get("type") or "").startswith("/problems/") else "",
        }

    @property
    def handed_over(self) -> UUID | None:
        """The task that goes on with it in the background, if there is one."""
        told = self.message.problem if isinstance(self.message.problem, dict) else {}
        found = told.get("handed_over")
        try:
            return UUID(found["task_id"]) if isinstance(found, dict) else None
        except (KeyError, TypeError, ValueError, AttributeError):
            return None


@dataclass(frozen=True, slots=True)
class Transcript:
    """A stretch of a conversation, oldest first. ``earlier`` and ``later`` say from which place on there is more."""

    entries: Sequence[Entry]
    earlier: int | None
    later: int | None

    @property
    def writing(self) -> Entry | None:
        """The answer that is being written, if one is."""
        return next((entry for entry in reversed(self.entries) if entry.is_writing), None)


def read(conversation: Conversation, user: Any, *, before: int | None = None, after: int | None = None) -> Transcript:
    """Return the newest messages: of all, of those ``before`` a place, or all that stand ``after`` one.

    ``user`` is who reads: requests that an answer waits for have a link if they may look at them.
    """
    found = conversation.messages.order_by("-place")
    if before is not None:
        found = found.filter(place__lt=before)
    if after is not None:
        found = found.filter(place__gt=after)
    rows = list(found[: PAGE + 1])
    more = len(rows) > PAGE
    messages = rows[:PAGE][::-1]
    lines = _lines([message for message in messages if message.role == Message.Role.ASSISTANT])
    waits = waits_for([one.run_id for one in messages if one.status == Status.WRITING and one.run_id], user)
    return Transcript(
        [Entry(one, lines.get(one.pk, ()), waits.get(one.run_id, ()) if one.run_id else ()) for one in messages],
        earlier=messages[0].place if more else None,
        later=messages[-1].place if before is not None and messages else None,
    )


def _lines(answers: Sequence[Message]) -> dict[UUID, Sequence[Line]]:
    """Return the steps that a person is shown of each answer."""
    runs = {answer.run_id: answer for answer in answers if answer.run_id is not None}
    if not runs:
        return {}
    steps = (
        Step.objects.filter(run__in=runs, kind__in=SHOWN, epoch=F("run__journal_epoch"))
        .annotate(shown=_SHOWN)
        .defer("output")
        .order_by("id")
    )
    failures = JobEvent.objects.filter(job__in=runs, kind=JobEvent.Kind.STEP, reason="failed").order_by("id")
    found: dict[UUID, dict[str, Line]] = defaultdict(dict)
    for step in steps:
        if (finished := _finished(step)) is not None:
            found[step.run_id][step.key] = finished
    for event in failures:
        line = _failed(event)
        # A step that came off in the end is no failure; a model that failed is told by the answer itself.
        told = line.kind in (Step.Kind.TOOL, Step.Kind.STEP) or runs[event.job_id].status == Status.WRITING
        if told and line.key not in found[event.job_id]:
            found[event.job_id][line.key] = line
    return {runs[run].pk: sorted(by_key.values(), key=lambda line: line.at)[-STEPS:] for run, by_key in found.items()}


_SHOWN = Func(F("output"), template=TOLD.format("%(expressions)s"), output_field=JSONField())


def _finished(step: Step) -> Line | None:
    shown: Any = step.shown  # type: ignore[attr-defined]  # annotated above
    if step.kind == Step.Kind.WAIT:
        return _decided(step, shown) if is_decision(shown) else None
    is_tool = step.kind == Step.Kind.TOOL
    went_wrong = is_tool and isinstance(shown, dict) and shown.get("ok") is False
    return Line(
        key=step.key,
        name=step.name,
        kind=step.kind,
        status="failed" if went_wrong else "finished",
        words=words(step.name, step.input, shown or {}) if has_words(step.kind, step.name) else readable(step.name),
        took=step.finished_at - step.started_at,
        opens=True,
        at=step.finished_at,
    )


def _decided(step: Step, shown: Any) -> Line:
    return Line(
        key=step.key,
        name=step.name,
        kind=step.kind,
        status="finished",
        words=decision_words(shown),
        took=None,
        opens=True,
        at=step.finished_at,
    )


def _failed(event: JobEvent) -> Line:
    data = event.data or {}
    kind, name = str(data.get("kind", "")), str(data.get("name", ""))
    what = "The model did not answer" if kind in (Step.Kind.MODEL, Step.Kind.COMPOSE) else f"{readable(name)} failed"
    summary = str(data.get("summary") or "")
    ms = data.get("ms")
    return Line(
        key=str(data.get("key", "")),
        name=name,
        kind=kind,
        status="failed",
        words=f"{what}: {summary}" if summary else what,
        took=timedelta(milliseconds=ms) if isinstance(ms, int) else None,
        opens=False,
        at=event.at,
    )


def rendered(text: str) -> SafeString:
    """Return Markdown as sanitised HTML; the last ones are kept."""
    return _rendered(text) if len(text) <= _KEPT_UP_TO else markdown.render(text)


@lru_cache(maxsize=512)
def _rendered(text: str) -> SafeString:
    return markdown.render(text)
