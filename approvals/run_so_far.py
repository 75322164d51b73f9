"""What a run has come to, for whoever decides on what it wants to do next, and what it did once that was decided."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.db.models import TextField
from django.db.models.functions import Cast, Left

from accounts import roles
from agents.chat.forgetting import is_forgotten
from agents.models import Message, Run, Step
from agents.modes import policy
from agents.runtime.plain import one_line
from approvals.reading import Document, Reader, ReadRow, rows_of

STEPS = 12
MESSAGES = 4
#: Characters of a step's output that are read.
OUTPUT = 4_000
#: Characters of a message that are shown, and of all of it together.
MESSAGE = 4_000
ROOM = 20_000


@dataclass(frozen=True, slots=True)
class Said:
    """A message of the conversation."""

    is_theirs: bool
    document: Document


@dataclass(frozen=True, slots=True)
class RunSoFar:
    """The run, read in a fixed number of statements."""

    run: Run
    input: Sequence[ReadRow]
    is_forgotten: bool
    #: The last of them, oldest first, each with ``came_out``: in a line.
    steps: Sequence[Step]
    #: How many there are before those.
    earlier: int
    messages: Sequence[Said]
    may_see_task: bool

    @classmethod
    def read(cls, run: Run, user: Any) -> RunSoFar:
        """Read it."""
        shown = Step.objects.filter(run=run, epoch=run.journal_epoch).exclude(kind=Step.Kind.VALUE)
        steps = list(
            shown.defer("input", "output")
            .annotate(written=Left(Cast("output", TextField()), OUTPUT))
            .order_by("-id")[:STEPS]
        )[::-1]
        for step in steps:
            step.came_out = _gist(step.written)  # type: ignore[attr-defined]
        reader = Reader(ROOM, MESSAGE)
        messages = _messages(run, reader) if policy(run.mode).concurrency.entrance == "chat" else []
        forgotten = is_forgotten(run)
        return cls(
            run=run,
            input=[] if forgotten or messages else rows_of(run.input, reader),
            is_forgotten=forgotten,
            steps=steps,
            earlier=max(0, run.steps_done - len(steps)),
            messages=messages,
            may_see_task=roles.is_operator(user) or (user.pk is not None and run.job.user_id == user.pk),
        )

    @property
    def cost(self) -> Decimal | None:
        """What it has cost so far; None once a model without a known price was used."""
        return self.run.cost_usd if self.run.cost_known else None


def _messages(run: Run, reader: Reader) -> list[Said]:
    """Return the end of the conversation, up to the question that the run answers."""
    place = Message.objects.filter(run=run).order_by("place").values_list("conversation_id", "place").first()
    if place is None:
        return []
    conversation, until = place
    found = Message.objects.filter(conversation_id=conversation, place__lte=until).exclude(text="").order_by("-place")
    return [Said(message.role == Message.Role.USER, reader.document(message.text)) for message in found[:MESSAGES]][
        ::-1
    ]


def _gist(written: str | None) -> str:
    """Return what a step came to in a line, of the beginning of its output as JSON."""
    if written is None:
        return ""
    try:
        value = json.loads(written)
    except ValueError:
        return one_line(written)
    return _line(value)


def _line(value: Any) -> str:
    if isinstance(value, dict):
        for name in ("text", "content", "decision", "message", "title", "summary", "result"):
            if value.get(name) not in (None, "", [], {}):
                return _line(value[name])
        calls = value.get("calls") or value.get("tool_calls")
        if isinstance(calls, list) and calls:
            return "asks for " + ", ".join(str(call.get("tool", "a tool")) for call in calls if isinstance(call, dict))
    return one_line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
