"""Conversations in any state, written straight to the tables, for tests of what is read and shown."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import User
from django.utils import timezone

from agents.models import Conversation, Endpoint, Message
from jobs.models import Job
from tests.support.tasks import task

#: What `tests.console.conftest.CONFIG` has, and somebody to chat with.
ENDPOINT = "chat.v1"


def with_chat(config: str) -> str:
    """Return a configuration with the endpoint of the chat in it."""
    return config.replace("\nlanes:", "\n  chat.v1: {agent: helper, mode: streaming-sync}\nlanes:")


def talk(user: User, *said: str, title: str = "A talk", **more: Any) -> Conversation:
    """Write a conversation: what the person said and what was answered, in turn."""
    conversation = Conversation.objects.create(
        user=user, endpoint=Endpoint.objects.get(name=ENDPOINT), title=title, **more
    )
    for place, text in enumerate(said):
        say(conversation, text) if place % 2 == 0 else answer(conversation, text)
    return conversation


def say(conversation: Conversation, text: str, **more: Any) -> Message:
    """Write what the person says next."""
    return _add(conversation, role="user", text=text, **more)


def answer(conversation: Conversation, text: str = "", *, state: str = "succeeded", **more: Any) -> Message:
    """Write what is answered next, by a run in that state: its status follows from it."""
    status = {"running": "writing", "cancelled": "stopped", "dead": "failed"}.get(state, "done")
    run = more.pop("run", None) or task(
        state,
        user=conversation.user,
        endpoint=ENDPOINT,
        lane="chat",
        home_lane="chat",
        partition_key=f"conversation:{conversation.pk}",
    )
    asked = conversation.messages.order_by("place").last()
    if asked is not None and asked.role == "user" and asked.run is None:
        Message.objects.filter(pk=asked.pk).update(run=run)
    return _add(conversation, role="assistant", text=text, status=status, run=run, **more)


def finish(message: Message, text: str, *, state: str = "succeeded", problem: Any = None) -> None:
    """Let an answer that is being written end."""
    status = {"cancelled": "stopped", "dead": "failed"}.get(state, "done")
    Message.objects.filter(pk=message.pk).update(text=text, status=status, seq=message.seq + 1, problem=problem)
    assert message.run_id is not None
    Job.objects.filter(pk=message.run_id).update(state=state, worker=None, finished_at=timezone.now())


def _add(conversation: Conversation, **values: Any) -> Message:
    place = conversation.messages.count() + 1
    return Message.objects.create(conversation=conversation, place=place, **values)
