"""What a run has come to, for whoever decides on what it wants to do next, and what it did once that was decided."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from django.db.models import TextField
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Cast, Left

from accounts import roles
from agents.chat import step_words
from agents.chat.forgetting import is_forgotten
from agents.models import Message, Run, Step
from agents.modes import policy
from agents.runtime.plain import one_line
from agents.runtime.verifying import DRAFT, VERIFY
from approvals.plan_words import Row, row_of, visible
from approvals.reading import Document, Reader, ReadRow, rows_of

STEPS = 12
MESSAGES = 4
#: Characters of a step's input and output that are read.
OUTPUT = 4_000
#: Characters of a message that are shown, and of all of it together.
MESSAGE = 4_000
ROOM = 20_000
#: Rows of what a tool came back with, and items of a list in one of them.
ROWS = 10
ITEMS = 5


@dataclass(frozen=True, slots=True)
class Said:
    """A message of the conversation."""

    is_theirs: bool
    document: Document


@dataclass(frozen=True, slots=True)
class Did:
    """A step in words."""

    kind: str
    words: str
    #: What it came to in a line, or in rows.
    came_out: str = ""
    rows: Sequence[Row] = ()


@dataclass(frozen=True, slots=True)
class RunSoFar:
    """The run, read in a fixed number of statements."""

    run: Run
    input: Sequence[ReadRow]
    is_forgotten: bool
    #: The last of them that say anything, oldest first.
    steps: Sequence[Did]
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
            .annotate(
                asked=Left(Cast("input", TextField()), OUTPUT),
                written=Left(Cast("output", TextField()), OUTPUT),
                text=Left(KeyTextTransform("text", "output"), OUTPUT),
                went_well=KeyTextTransform("ok", "output"),
            )
            .order_by("-id")[:STEPS]
        )[::-1]
        reader = Reader(ROOM, MESSAGE)
        messages = _messages(run, reader) if policy(run.mode).concurrency.entrance == "chat" else []
        forgotten = is_forgotten(run)
        return cls(
            run=run,
            input=[] if forgotten or messages else rows_of(run.input, reader),
            is_forgotten=forgotten,
            steps=_told(steps),
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


def _told(steps: Sequence[Any]) -> list[Did]:
    """Return steps in words, without those that say nothing: a draft that only asks for tools, or is said again."""
    told = [did for step in steps if (did := _did(step)) is not None]
    answers = {did.came_out for did in told if did.kind == Step.Kind.COMPOSE}
    return [did for did in told if did.kind != Step.Kind.MODEL or did.came_out not in answers]


def _did(step: Any) -> Did | None:
    kind, output = step.kind, _json(step.written)
    if kind == Step.Kind.TOOL:
        return _used(step, output)
    if kind == Step.Kind.WAIT:
        return _waited(step, output)
    came_out = _line(output)
    if kind in (Step.Kind.MODEL, Step.Kind.COMPOSE):
        if isinstance(output, Mapping):
            came_out = _line(output.get("text") or output.get("data") or "")
        elif step.text is not None:  # all of it is too long to be read
            came_out = _line(step.text)
        if not came_out:
            return None
        words = "Answered" if kind == Step.Kind.COMPOSE else _name(step)
        return Did(kind, "Thought about it" if step.name == DRAFT else words, came_out)
    if step_words.has_words(kind, step.name):
        reason = output.get("reason") if step.name == VERIFY and isinstance(output, Mapping) else ""
        return Did(kind, step_words.words(step.name, None, output), _line(reason or ""))
    return Did(kind, _name(step), came_out)


def _used(step: Any, output: Any) -> Did:
    """Return what a tool did, with what it came back with as rows."""
    if not isinstance(output, Mapping):  # too long to be read: no beginning of it stands for the whole
        return Did(
            step.kind, visible(step_words.words(step.name, _json(step.asked), {"ok": step.went_well != "false"}))
        )
    words = visible(step_words.words(step.name, _json(step.asked), output))
    content = step_words.result_of(output)
    if not output.get("ok", True):
        return Did(step.kind, words, _line(output.get("content")))
    if isinstance(content, Mapping) and content:
        return Did(step.kind, words, rows=_rows(content))
    return Did(step.kind, words, _line(content))


def _waited(step: Any, output: Any) -> Did:
    if not step_words.is_decision(output):
        return Did(step.kind, "Waited" if step.name == "sleep" else f"Waited for {visible(step.name)}")
    said = step_words.decision_words({**output, "comment": ""})
    return Did(step.kind, f"Asked people: {said[:1].lower()}{said[1:]}", _line(output.get("comment") or ""))


def _rows(content: Mapping[str, Any]) -> list[Row]:
    """Return a result as short rows; what is in it in turn, in a line each."""
    return [_short(row_of(name, value, content), value) for name, value in list(content.items())[:ROWS]]


def _short(row: Row, value: Any) -> Row:
    if row.kind == "long":
        return replace(row, value=_line(value), kind="text")
    if row.kind == "list":
        return replace(row, value=row.value[:ITEMS] + ["…"] * (len(row.value) > ITEMS))
    if row.kind != "json":
        return row
    items = value if isinstance(value, list) else [value]
    lines = [_gist(one) for one in items[:ITEMS]] + ["…"] * (len(items) > ITEMS)
    return replace(row, value=lines, kind="list")


def _gist(value: Any) -> str:
    """Return one item of a result in a line."""
    if not isinstance(value, Mapping):
        return _line(value)
    rows = [row_of(name, inner, value) for name, inner in value.items()]
    return one_line(" · ".join(f"{row.label} {row.value}" for row in rows if row.kind in ("text", "number", "money")))


def _name(step: Any) -> str:
    return visible(step_words.readable(step.name))


def _json(written: str | None) -> Any:
    """Return a value of the journal; the beginning of it as text where it is too long to be read whole."""
    try:
        return json.loads(written) if written is not None else None
    except ValueError:
        return written


def _line(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        for name in ("text", "content", "decision", "message", "title", "summary", "result"):
            if value.get(name) not in (None, "", [], {}):
                return _line(value[name])
        calls = value.get("calls") or value.get("tool_calls")
        if isinstance(calls, list) and calls:
            names = (str(call.get("tool", "a tool")) for call in calls if isinstance(call, dict))
            return visible("asks for " + ", ".join(step_words.readable(name, inside=True) for name in names))
    return visible(one_line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))
