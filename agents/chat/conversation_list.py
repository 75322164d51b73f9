"""A person's conversations, the last one used first, page by page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import CharField, Exists, OuterRef, Q, Value
from django.db.models.functions import Cast, Concat

from agents.chat import exchange
from agents.chat.conversations import owned_by
from agents.models import Conversation
from jobs.models import Job
from jobs.states import LIVE

PAGE = 30


@dataclass(frozen=True, slots=True)
class ConversationPage:
    """A part of the list, and the cursor of what is older; empty at the end."""

    items: Sequence[Conversation]
    older: str


def page(user: Any, *, cursor: str = "") -> ConversationPage:
    """Return a page of the list. Each has ``is_writing``: whether a reply is being written in it.

    A cursor that makes no sense is left out.
    """
    # By its job, which an index finds: of a long conversation it would be one message of many.
    partition = Concat(Value(exchange.partition("")), Cast(OuterRef("pk"), CharField()))
    found = owned_by(user).annotate(is_writing=Exists(Job.objects.filter(partition_key=partition, state__in=LIVE)))
    if after := _read(cursor):
        at, pk = after
        found = found.filter(Q(updated_at__lt=at) | Q(updated_at=at, pk__lt=pk))
    rows = list(found.select_related(None).defer("summary")[: PAGE + 1])
    last = rows[PAGE - 1] if len(rows) > PAGE else None
    return ConversationPage(rows[:PAGE], f"{last.updated_at.isoformat()}_{last.pk}" if last else "")


def _read(cursor: str) -> tuple[datetime, UUID] | None:
    at, _, pk = cursor.partition("_")
    try:
        moment = datetime.fromisoformat(at)
        return (moment, UUID(pk)) if moment.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None
