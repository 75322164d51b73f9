"""A person's conversations as the site lists them, the last one used first, page by page."""

from __future__ import annotations

from typing import Any

from django.db.models import CharField, Exists, OuterRef, Value
from django.db.models.functions import Cast, Concat

from agents.chat import conversations, exchange
from agents.models import Conversation
from agents.queries import BadCursor, Page
from jobs.models import Job
from jobs.states import LIVE, State

PAGE = 30


def page(user: Any, *, cursor: str = "") -> Page[Conversation]:
    """Return a page of the list. Each has ``is_writing``: whether a reply is being written in it; and ``is_waiting``.

    A cursor that makes no sense is left out.
    """
    # By its job, which an index finds: of a long conversation it would be one message of many.
    partition = Concat(Value(exchange.partition("")), Cast(OuterRef("pk"), CharField()))
    found = (
        conversations.owned_by(user)
        .annotate(
            is_writing=Exists(Job.objects.filter(partition_key=partition, state__in=LIVE)),
            is_waiting=Exists(Job.objects.filter(partition_key=partition, state=State.WAITING)),
        )
        .select_related(None)
        .defer("summary")
    )
    try:
        return conversations.page(found, cursor=cursor, limit=PAGE)
    except BadCursor:
        return conversations.page(found, limit=PAGE)
