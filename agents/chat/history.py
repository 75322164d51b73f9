"""What was said before: the history that a program gets, and the summary that stands for the oldest part of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from jobs.script import Script

#: Messages of a history, the newest ones, and characters of all of them together.
MAX_MESSAGES = 200
MAX_CHARACTERS = 400_000
#: Characters of a summary.
MAX_SUMMARY = 50_000

_SUMMARY = (
    "[This conversation has grown long. Its earlier part is not shown; this is a summary of it, for you to build on,"
    " not a message to answer.]\n\n{summary}"
)


@dataclass(frozen=True, slots=True)
class _Item:
    role: str
    text: str
    #: Of the message; of the last message in it, if it is the summary.
    place: int


def read(conversation_id: UUID, before_place: int) -> Script[list[dict[str, str]]]:
    """Return what was said before a place, oldest first, as `{"role", "text"}`; first the summary, if there is one.

    A stopped reply is there as far as it was written. One that failed, and one without a text, is left out.
    """
    items = yield from _items(conversation_id, before_place)
    return [{"role": item.role, "text": item.text} for item in items]


def keep_summary(conversation_id: UUID, before_place: int, messages: int, text: str) -> Script[None]:
    """Keep what a program made of the first ``messages`` items of the history before a place. It only ever grows."""
    items = yield from _items(conversation_id, before_place)
    summed_up = items[: max(0, messages)]
    if not summed_up or not text.strip():
        return
    yield (
        "UPDATE agents_conversation SET summary = %(text)s, summary_through = %(through)s"
        " WHERE id = %(id)s AND summary_through < %(through)s",
        {"id": conversation_id, "text": text[:MAX_SUMMARY], "through": summed_up[-1].place},
    )


def _items(conversation_id: UUID, before_place: int) -> Script[list[_Item]]:
    found: list[dict[str, Any]] = yield (
        "SELECT summary, summary_through FROM agents_conversation WHERE id = %s",
        [conversation_id],
    )
    if not found:
        return []
    summary, through = found[0]["summary"], found[0]["summary_through"]
    if through >= before_place:
        # The message is an old one that is answered again: a summary of what came later is not for it.
        summary, through = "", 0
    rows = yield (
        "SELECT role, text, place FROM agents_message WHERE conversation_id = %s AND place > %s AND place < %s"
        " AND status IN ('done', 'stopped') AND text ~ '\\S' ORDER BY place DESC LIMIT %s",
        [conversation_id, through, before_place, MAX_MESSAGES],
    )
    items: list[_Item] = []
    left = MAX_CHARACTERS - len(summary)
    for row in rows:
        left -= len(row["text"])
        if left < 0 and items:
            break
        items.append(_Item(row["role"], row["text"][:MAX_CHARACTERS], row["place"]))
    if summary:
        items.append(_Item("user", _SUMMARY.format(summary=summary), through))
    return items[::-1]
