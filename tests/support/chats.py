"""Conversations whose replies a test writes by hand, as a web process would."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

from agents import registry
from agents.chat import conversations, exchange
from agents.chat.exchange import Begun, Said
from agents.models import Conversation, Message
from jobs import script
from jobs.claim import finish
from jobs.handlers import Claim, Failed, Outcome, Succeeded
from tests.jobs.drive import worker
from tests.support.people import person

CHATS = """
agents:
  helper: {version: 1, instructions: Help., model: demo}
endpoints:
  chat.v1: {agent: helper, mode: streaming-sync, escape: help.v1}
  alone.v1: {agent: helper, mode: streaming-sync}
  help.v1: {agent: helper, mode: async-queue}
"""
PROBLEM = {
    "type": "/problems/model-unavailable",
    "title": "The model is not available now",
    "detail": "The provider answered 503 to: the secret question.",
    "fingerprint": "model-unavailable:helper",
    "users_own": False,
    "retriable": True,
}


def conversation(name: str = "alice", endpoint: str = "chat.v1") -> Conversation:
    """Begin a conversation of a person's."""
    return conversations.create(person(name), endpoint)


def say(it: Conversation, text: str = "Where does the river end?") -> tuple[Begun, Claim]:
    """Send a message; its reply is being written by a process of its own."""
    said = Said(it.pk, it.user_id, text, str(uuid4()))
    begun = script.run(exchange.begin(said, registry.current(), worker("chat", can=registry.capabilities())))
    assert begun.claim is not None
    return begun, begun.claim


def end(claim: Claim, outcome: Outcome) -> None:
    """Write how a reply ended."""
    assert script.run(finish(claim, outcome))


def answered(it: Conversation, text: str = "Where does the river end?", answer: str = "In the sea.") -> UUID:
    """Send a message and answer it; return the run's id."""
    begun, claim = say(it, text)
    end(claim, Succeeded({"text": answer}))
    return begun.run_id


def failed(it: Conversation, text: str = "Where does the river end?", **problem: Any) -> UUID:
    """Send a message whose answer fails for good; return the run's id."""
    begun, claim = say(it, text)
    end(claim, Failed({**PROBLEM, **problem}, retriable=False))
    return begun.run_id


def texts(it: Conversation) -> list[tuple[str, str, str]]:
    """Return a conversation as (role, text, status), oldest first."""
    found = Message.objects.filter(conversation_id=it.pk).order_by("place")
    return list(found.values_list("role", "text", "status"))
