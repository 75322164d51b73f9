"""The tools `memory_write` and `memory_read`: what agents keep for one user, found again by full-text search."""

from __future__ import annotations

from typing import Annotated, Any

from django.contrib.postgres.search import SearchQuery, SearchRank
from django.db.models import F
from pydantic import Field

from agents.models import Memory
from agents.relevance import query_terms
from agents.runtime.ports import ToolContext
from agents.tools.database import in_database
from agents.tools.registry import Refused, tool

MAX_CHARS = 4000
MAX_PER_USER = 5000


def _user(context: ToolContext) -> int:
    if context.user_id is None:
        raise Refused("no-user", "Memory belongs to a user, and nobody is signed in for this run.")
    return context.user_id


@tool(idempotent=True, effect=True)
async def memory_write(
    text: Annotated[str, Field(min_length=1, max_length=MAX_CHARS)], context: ToolContext
) -> dict[str, Any]:
    """Remember something for the user, in later conversations too.

    Args:
        text: What to remember, a sentence or a few that make sense on their own.
    """
    return await in_database(_write, _user(context), context.agent, text.strip())


@tool(idempotent=True)
async def memory_read(
    context: ToolContext,
    query: Annotated[str, Field(max_length=500)] = "",
    limit: Annotated[int, Field(ge=1, le=50)] = 8,
) -> dict[str, Any]:
    """Look up what was remembered for the user.

    Args:
        query: Words to look for, in any form. Without them: the newest.
        limit: How many memories to return, 1 to 50.
    """
    return await in_database(_read, _user(context), query, limit)


def _write(user_id: int, agent: str, text: str) -> dict[str, Any]:
    text = text.replace("\x00", "")
    if not text:
        raise Refused("nothing", "There is nothing to remember in an empty text.")
    mine = Memory.objects.filter(user_id=user_id)
    if mine.filter(text=text).exists():
        return {"remembered": text, "note": "This was remembered already."}
    if mine.count() >= MAX_PER_USER:
        raise Refused("full", f"The memory of this user is full: it holds {MAX_PER_USER} entries.")
    Memory.objects.create(user_id=user_id, agent=agent, text=text)
    return {"remembered": text}


def _read(user_id: int, query: str, limit: int) -> dict[str, Any]:
    mine = Memory.objects.filter(user_id=user_id).order_by("-created_at", "-id")
    words = [term for term in query_terms(query) if term.isalnum()]
    if not words:
        return {"memories": [_shown(memory) for memory in mine[:limit]]}
    # Any of the words, as the beginning of one: "cats" finds "cat", "booking" finds "booked".
    search = SearchQuery(" | ".join(f"{word}:*" for word in words[:30]), search_type="raw", config="simple")
    found = (
        mine.filter(search=search)
        .annotate(rank=SearchRank(F("search"), search))
        .order_by("-rank", "-created_at", "-id")
    )
    memories = [_shown(memory) for memory in found[:limit]]
    return {"memories": memories} if memories else {"memories": [], "note": f"Nothing is remembered about: {query}"}


def _shown(memory: Memory) -> dict[str, str]:
    return {"text": memory.text, "when": memory.created_at.isoformat(timespec="seconds"), "agent": memory.agent}
