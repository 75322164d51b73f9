"""A plan as a page shows it: bounded, however long its texts are and however many steps it has."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.utils.safestring import SafeString

from agents import markdown
from approvals.plan_words import CallWords, Row, calls_of, row_of, visible

#: Characters of one text, and of all texts of a page together; the rest is a click away, on the step's own page.
MAX_TEXT = 40_000
MAX_TEXTS = 240_000
#: Where there is no room left, a text still begins.
MAX_BEGINNING = 400
#: Characters of one step's exact arguments, as JSON.
MAX_EXACT = 12_000
#: Steps beyond these are folded to a line each.
OPEN_STEPS = 12
#: A page shows so many steps at most.
MAX_STEPS = 400
_MARKED = re.compile(r"^(#{1,6} |[-*] |\d+\. |> |```|\|.*\|)|\*\*\S|\]\(https?:", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Document:
    """A long text, to be read: as the Markdown that it is, or as it stands."""

    html: SafeString | None
    text: str
    length: int

    @property
    def is_cut(self) -> bool:
        """Whether not all of it is shown."""
        return len(self.text) < self.length


@dataclass(frozen=True, slots=True)
class ReadRow:
    """One argument as it is read."""

    row: Row
    document: Document | None = None


@dataclass(frozen=True, slots=True)
class ReadStep:
    """One step as it is read."""

    place: int
    call: CallWords
    rows: Sequence[ReadRow]
    #: Its arguments as JSON, to the last character; cut where they are long.
    exact: str
    is_exact: bool
    is_flagged: bool
    is_open: bool
    #: What was said of it in a form that came back: "approve", "reject" or nothing.
    said: str = ""


class Reader:
    """Shows texts as long as the page has room for them."""

    def __init__(self, room: int = MAX_TEXTS, longest: int = MAX_TEXT) -> None:
        self._room = room
        self._longest = longest

    def row(self, row: Row) -> ReadRow:
        """Return an argument with its text as a document, if it is one."""
        return ReadRow(row, self.document(row.value) if row.kind == "long" else None)

    def document(self, text: str) -> Document:
        """Return a text, or the beginning for which there is room."""
        most = min(self._longest, max(self._room, MAX_BEGINNING))
        shown = text[:most]
        self._room -= len(shown)
        plain = visible(shown)
        html = markdown.render(plain) if len(shown) == len(text) and _MARKED.search(shown) else None
        if len(shown) < len(text):
            return Document(html, plain, max(len(text), len(plain) + 1))
        return Document(html, plain, len(plain))

    def exact(self, arguments: Mapping[str, Any]) -> tuple[str, bool]:
        """Return arguments as JSON, and whether that is all of it."""
        written = json.dumps(arguments, ensure_ascii=False, indent=2)
        most = min(MAX_EXACT if self._longest == MAX_TEXT else len(written), max(self._room, MAX_BEGINNING))
        self._room -= min(len(written), most)
        return visible(written[:most]), len(written) <= most


def steps_of(
    plan: Mapping[str, Any], flagged: Collection[str] = (), said: Mapping[str, str] | None = None
) -> list[ReadStep]:
    """Return the steps of a plan as a page shows them."""
    reader = Reader()
    found = []
    for place, call in enumerate(calls_of(plan)[:MAX_STEPS], 1):
        rows = [reader.row(row) for row in call.rows]
        exact, whole = reader.exact(call.arguments)
        is_flagged = call.id in flagged
        is_open = place <= OPEN_STEPS or is_flagged
        found.append(ReadStep(place, call, rows, exact, whole, is_flagged, is_open, (said or {}).get(call.id, "")))
    return found


def whole_step(plan: Mapping[str, Any], place: int) -> ReadStep | None:
    """Return one step with all of its texts; None if the plan has no such step."""
    calls = plan.get("calls", ())
    if not 1 <= place <= len(calls):
        return None
    reader = Reader(markdown.MAX_CHARACTERS, markdown.MAX_CHARACTERS)
    (call,) = calls_of({"calls": [calls[place - 1]]})
    rows = [reader.row(row) for row in call.rows]
    exact, whole = Reader(markdown.MAX_CHARACTERS, markdown.MAX_CHARACTERS).exact(call.arguments)
    return ReadStep(place, call, rows, exact, whole, is_flagged=False, is_open=True)


def rows_of(given: Any, reader: Reader) -> list[ReadRow]:
    """Return what a run was given: by name, or as the one thing that it is."""
    if isinstance(given, Mapping):
        return [reader.row(row_of(name, value, given)) for name, value in list(given.items())[:30]]
    return [reader.row(row_of("input", given, {}))]
