"""Conversations as their owners have them: begun, named, and deleted with all that was said."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import NAMESPACE_URL, UUID, uuid5

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.db import transaction
from django.db.models import QuerySet

from accounts.problems import NotFound, Problem
from agents import invoke, payload, registry
from agents.chat.forgetting import forget
from agents.models import Conversation, Message
from agents.payload import bad_input
from agents.queries import Page, cut, decode
from audit import trail
from audit.trail import Actor
from jobs import script
from jobs.actions import Cancel, InvalidState
from jobs.models import Job
from jobs.script import Script, Tell
from jobs.states import LIVE

DEFAULT_ENDPOINT = "chat.v1"
#: Conversations of one person.
MAX_CONVERSATIONS = 5_000
#: Characters of a title: as it is kept, and as it is taken from a message.
MAX_TITLE = 120
TITLE_FROM_TEXT = 60


class TooManyConversations(Problem):
    """You have as many conversations as one person may have.

    Delete some that you do not need.
    """

    slug, title, status = "too-many-conversations", "Too many conversations", 409


def owned_by(user: AbstractBaseUser | AnonymousUser) -> QuerySet[Conversation]:
    """Return a person's conversations, the last one used first."""
    found = Conversation.objects.order_by("-updated_at", "-id").select_related("endpoint")
    return found.filter(user_id=user.pk) if user.pk is not None else found.none()


def create(user: AbstractBaseUser, endpoint: str = DEFAULT_ENDPOINT, *, key: str | None = None) -> Conversation:
    """Begin a conversation with an endpoint.

    Args:
        key: of the caller's own choice. The same key and endpoint: the same conversation, as long as it is there.

    Raises:
        UnknownEndpoint, ModeNotAllowed, TooManyConversations.
    """
    found = invoke.find(registry.current(), endpoint, entrance="chat")
    given = {} if key is None else {"id": uuid5(NAMESPACE_URL, f"astra:conversation:{user.pk}:{found.name}:{key}")}
    if given and (earlier := owned_by(user).filter(pk=given["id"]).first()) is not None:
        return earlier
    if Conversation.objects.filter(user_id=user.pk).order_by()[:MAX_CONVERSATIONS].count() >= MAX_CONVERSATIONS:
        raise TooManyConversations(f"You have {MAX_CONVERSATIONS:,} conversations. Delete some first.")
    if given:
        return Conversation.objects.get_or_create(**given, defaults={"user_id": user.pk, "endpoint_id": found.id})[0]
    return Conversation.objects.create(user_id=user.pk, endpoint_id=found.id)


def discard_unused(conversation: Conversation) -> None:
    """Take back a conversation that was only just begun. One in which somebody has said something stays."""
    with transaction.atomic():
        held = Conversation.objects.select_for_update(of=("self",)).filter(pk=conversation.pk).first()
        if held is not None and not Message.objects.filter(conversation=held).exists():
            held.delete()


def page(found: QuerySet[Conversation], *, cursor: str = "", limit: int = 50) -> Page[Conversation]:
    """Return one page of a person's conversations, as `owned_by` returns them.

    Raises:
        BadCursor: it was not made here.
    """
    if cursor:
        at, last = decode(cursor, _position)
        found = found.filter(updated_at__lte=at).exclude(updated_at=at, pk__gte=last)
    return cut(found, limit, lambda it: f"{it.updated_at.isoformat()} {it.pk}")


def _position(text: str) -> tuple[datetime, UUID]:
    at, _, last = text.partition(" ")
    return datetime.fromisoformat(at).astimezone(UTC), UUID(last)


def messages(conversation: Conversation, *, cursor: str = "", limit: int = 50) -> Page[Message]:
    """Return one page of what was said, newest first.

    Raises:
        BadCursor: it was not made here.
    """
    found = Message.objects.filter(conversation=conversation).order_by("-place")
    if cursor:
        found = found.filter(place__lt=decode(cursor, _place))
    return cut(found, limit, lambda message: message.place)


def _place(text: str) -> int:
    if not 0 <= (place := int(text)) <= 2_147_483_647:
        raise ValueError("there is no such place")
    return place


def title_from(text: str) -> str:
    """Return a title for a conversation that begins with ``text``: its first line, cut at a word if it is long."""
    line = next((words for line in text.splitlines() if (words := " ".join(line.split()))), "")
    if len(line) <= TITLE_FROM_TEXT:
        return line
    cut, blank, _ = line[:TITLE_FROM_TEXT].rpartition(" ")
    return f"{cut if blank and len(cut) > TITLE_FROM_TEXT // 2 else line[: TITLE_FROM_TEXT - 1]}…"


def channel(conversation_id: UUID | str) -> str:
    """Return the channel of Redis on which processes hear of a conversation."""
    return f"astra:conversation:{conversation_id}"


def lock_person(user_id: int) -> Script[None]:
    """Let what one person begins or deletes in their conversations go one after the other. First of all locks."""
    yield "SELECT pg_advisory_xact_lock(7203, %s)", [user_id]


def next_place(conversation_id: UUID | str) -> Script[int | None]:
    """Lock a conversation and return the place of its next message; None if it is gone."""
    found = yield "SELECT 1 FROM agents_conversation WHERE id = %s FOR NO KEY UPDATE", [conversation_id]
    if not found:
        return None
    rows = yield (
        "SELECT coalesce(max(place), 0) + 1 AS place FROM agents_message WHERE conversation_id = %s",
        [conversation_id],
    )
    return int(rows[0]["place"])


@dataclass(frozen=True, slots=True)
class _Action:
    actor: Actor

    def _own(self, conversation_id: UUID) -> Conversation:
        user = self.actor.user
        found = owned_by(user).filter(pk=conversation_id).first() if user is not None else None
        if found is None:
            raise NotFound("There is no such conversation, or it is not yours.")
        return found


@dataclass(frozen=True, slots=True)
class Rename(_Action):
    """Give one's own conversation a title."""

    def run(self, conversation_id: UUID, title: str) -> Conversation:
        """Rename; return the conversation.

        Raises:
            NotFound: it is not there, or not one's own.
            BadInput: the title is empty or too long.
        """
        payload.check(title, ("title",))
        title = " ".join(title.split())
        if not title:
            raise bad_input(("title",), "write a title")
        if len(title) > MAX_TITLE:
            raise bad_input(("title",), f"a title may have {MAX_TITLE} characters")
        conversation = self._own(conversation_id)
        with transaction.atomic():
            Conversation.objects.filter(pk=conversation.pk).update(title=title)
            # Without the words: they are the person's, and go with the conversation; the trail stays.
            trail.record(self.actor, "conversation.rename", "conversation", conversation.pk)
        conversation.title = title
        return conversation


@dataclass(frozen=True, slots=True)
class Delete(_Action):
    """Delete one's own conversation. What it cost is history and stays; what was said is the person's and goes."""

    def run(self, conversation_id: UUID) -> None:
        """Delete, and stop what is still being answered.

        Raises:
            NotFound: it is not there, or not one's own.
        """
        with transaction.atomic():
            # Nothing is begun in it from here on. Then its jobs, and the conversation last: as a run that ends does.
            script.run(lock_person(self.actor.user_id or 0))
            conversation = self._own(conversation_id)
            runs = script.run(_runs_of(conversation.pk))
            for run_id in Job.objects.filter(pk__in=runs, state__in=LIVE).order_by("pk").values_list("pk", flat=True):
                self._cancel(run_id)
            messages = Message.objects.filter(conversation=conversation).count()
            before = {"endpoint": conversation.endpoint.name, "messages": messages, "runs": len(runs)}
            script.run(_remove(conversation.pk, runs))
            trail.record(self.actor, "conversation.delete", "conversation", conversation.pk, before=before)

    def _cancel(self, run_id: UUID) -> None:
        with contextlib.suppress(InvalidState):  # it has just ended
            Cancel(self.actor).run(run_id)


def _runs_of(conversation_id: UUID) -> Script[list[UUID]]:
    """Return the runs of a conversation: its replies, and the tasks that messages were handed over to."""
    rows = yield (
        "SELECT run_id AS id FROM agents_message WHERE conversation_id = %(id)s AND run_id IS NOT NULL"
        " UNION SELECT (problem -> 'handed_over' ->> 'task_id')::uuid FROM agents_message"
        " WHERE conversation_id = %(id)s AND problem -> 'handed_over' ->> 'task_id' IS NOT NULL ORDER BY id",
        {"id": conversation_id},
    )
    return [row["id"] for row in rows]


def _remove(conversation_id: UUID, runs: list[UUID]) -> Script[None]:
    yield from forget(runs)
    yield "SELECT 1 FROM agents_conversation WHERE id = %s FOR UPDATE", [conversation_id]
    yield "DELETE FROM agents_message WHERE conversation_id = %s", [conversation_id]
    yield "DELETE FROM agents_conversation WHERE id = %s", [conversation_id]
    yield Tell(channel(conversation_id), {"type": "conversation.deleted"})
