"""The HTTP API of conversations. Messages are sent and replies read through the conversation's socket."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from django.http import HttpRequest, HttpResponse
from ninja import Body, Query, Router
from pydantic import BaseModel, Field

from accounts.api_auth import ApiAuth, caller_of
from accounts.problems import NotFound
from agents.api_shapes import QueryText, Strict, idempotency_header
from agents.chat import conversations
from agents.chat.conversations import DEFAULT_ENDPOINT, MAX_TITLE, Delete, Rename
from agents.models import Conversation, Message

router = Router(tags=["conversations"])

READ, WRITE = ApiAuth("chat:read"), ApiAuth("chat:write")


class ConversationRequest(Strict):
    """What to begin."""

    endpoint: str = Field(DEFAULT_ENDPOINT, max_length=200, description="One of mode `streaming-sync`.")


class ConversationChange(Strict):
    """What to change."""

    title: str = Field(max_length=1000, description=f"At most {MAX_TITLE} characters.")


class ConversationLinks(BaseModel):
    """Where to go from here."""

    self: str
    socket: str = Field(description="The WebSocket that messages are sent through.")


class ConversationBegun(BaseModel):
    """A conversation that was begun, or had been under the same idempotency key."""

    conversation_id: UUID
    endpoint: str
    links: ConversationLinks


class ConversationInList(ConversationBegun):
    """A conversation without what was said in it."""

    title: str = Field(description="Empty until its first message.")
    created_at: datetime
    updated_at: datetime = Field(description="When its last message was written.")


class ConversationList(BaseModel):
    """A page of conversations, the last one used first."""

    items: list[ConversationInList]
    next_cursor: str | None


class MessageOut(BaseModel):
    """What one side said."""

    message_id: UUID
    role: Literal["user", "assistant"]
    text: str = Field(description="An assistant's is Markdown. It grows while the status is `writing`.")
    status: Literal["writing", "done", "stopped", "failed"]
    run_id: UUID | None = Field(description="Of the run that answers it, or that wrote it.")
    problem: dict[str, Any] | None = Field(description="Why it failed, an RFC 9457 object.")
    created_at: datetime


class ConversationOut(ConversationInList):
    """A conversation with a page of its messages, newest first."""

    messages: list[MessageOut]
    next_cursor: str | None = Field(description="Of the page of older messages.")


@router.post("/conversations", auth=WRITE, response={201: ConversationBegun}, summary="Begin a conversation")
def begin_conversation(
    request: HttpRequest,
    response: HttpResponse,
    payload: Annotated[ConversationRequest, Body(ConversationRequest())],
    idempotency_key: Annotated[str | None, idempotency_header("The same key and endpoint: one conversation.")],
) -> ConversationBegun:
    """Begin a conversation. Open its socket to send the first message."""
    made = conversations.create(caller_of(request).user, payload.endpoint, key=idempotency_key)
    links = links_of(made.pk)
    response["Location"] = links.self
    return ConversationBegun(conversation_id=made.pk, endpoint=made.endpoint.name, links=links)


@router.get("/conversations", auth=READ, response=ConversationList, summary="List conversations")
def list_conversations(
    request: HttpRequest,
    cursor: Annotated[QueryText, Query("", description="`next_cursor` of the page before.")],
    limit: Annotated[int, Query(50, ge=1, le=200)],
) -> ConversationList:
    """List your own conversations, the last one used first. Nobody sees another's, operators neither."""
    page = conversations.page(conversations.owned_by(caller_of(request).user), cursor=cursor, limit=limit)
    return ConversationList(
        items=[ConversationInList(**_listed(it)) for it in page.items], next_cursor=page.next_cursor
    )


@router.get("/conversations/{uuid:conversation_id}", auth=READ, response=ConversationOut, summary="Read a conversation")
def get_conversation(
    request: HttpRequest,
    conversation_id: UUID,
    cursor: Annotated[QueryText, Query("", description="`next_cursor` of the page of newer messages.")],
    limit: Annotated[int, Query(50, ge=1, le=200)],
) -> ConversationOut:
    """Return one of your conversations with its newest messages."""
    found = _own(request, conversation_id)
    page = conversations.messages(found, cursor=cursor, limit=limit)
    said = [_message(message) for message in page.items]
    return ConversationOut(**_listed(found), messages=said, next_cursor=page.next_cursor)


@router.patch(
    "/conversations/{uuid:conversation_id}", auth=WRITE, response=ConversationInList, summary="Rename a conversation"
)
def rename_conversation(request: HttpRequest, conversation_id: UUID, payload: ConversationChange) -> ConversationInList:
    """Give a conversation of yours another title."""
    renamed = Rename(caller_of(request).actor(request)).run(conversation_id, payload.title)
    return ConversationInList(**_listed(renamed))


@router.delete(
    "/conversations/{uuid:conversation_id}", auth=WRITE, response={204: None}, summary="Delete a conversation"
)
def delete_conversation(request: HttpRequest, conversation_id: UUID) -> None:
    """Delete a conversation of yours and all that was said in it; a reply that is being written is stopped."""
    Delete(caller_of(request).actor(request)).run(conversation_id)


def links_of(conversation_id: UUID) -> ConversationLinks:
    """Return where to go from a conversation."""
    return ConversationLinks(self=f"/api/v1/conversations/{conversation_id}", socket=f"/ws/chat/{conversation_id}/")


def _own(request: HttpRequest, conversation_id: UUID) -> Conversation:
    found = conversations.owned_by(caller_of(request).user).filter(pk=conversation_id).first()
    if found is None:
        raise NotFound(f"There is no conversation {conversation_id}, or it is not yours.")
    return found


def _listed(it: Conversation) -> dict[str, Any]:
    return {
        "conversation_id": it.pk,
        "endpoint": it.endpoint.name,
        "links": links_of(it.pk),
        "title": it.title,
        "created_at": it.created_at,
        "updated_at": it.updated_at,
    }


def _message(message: Message) -> MessageOut:
    return MessageOut(
        message_id=message.pk,
        role=message.role,  # type: ignore[arg-type]  # the table knows no other
        text=message.text,
        status=message.status,  # type: ignore[arg-type]
        run_id=message.run_id,
        problem=message.problem,
        created_at=message.created_at,
    )
