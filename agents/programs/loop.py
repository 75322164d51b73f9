"""The built-in program: plan, act, compose, in turns, until the model asks for no more tools."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agents.programs.compaction import fitted
from agents.runtime.context import RunContext
from agents.runtime.errors import BadInput
from agents.runtime.ports import JOINT
from agents.runtime.program import program
from agents.runtime.types import Message


class Said(BaseModel):
    """An earlier message of the conversation. A system message cannot come from outside."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["user", "assistant"]
    text: str


class Conversation(BaseModel):
    """What the loop is asked: a message, and what was said before it."""

    model_config = ConfigDict(extra="ignore")

    message: str = Field(min_length=1)
    history: list[Said] = []


@program("loop")
async def loop(ctx: RunContext) -> dict[str, Any]:
    """Answer a message: a string, or `{"message", "history"?: [{"role", "text"}]}`. A long history is compacted first.

    Returns `{"text"}`, what was streamed, and `"truncated": true` when the last reply was cut off by its limit.
    """
    *history, message = conversation(ctx.input)
    messages = [*await fitted(ctx, history, message.text), message]
    parts: list[str] = []
    while True:
        reply = await ctx.compose(messages)
        if reply.text and not reply.preamble:
            parts.append(reply.text)
        if not reply.calls:
            output: dict[str, Any] = {"text": JOINT.join(parts)}
            return output | {"truncated": True} if reply.finish == "length" else output
        results = await ctx.tools(reply.calls)
        messages = [*messages, reply.as_message(), Message(role="tool", results=results)]


def conversation(given: Any) -> list[Message]:
    """Return the input as messages.

    Raises:
        BadInput: it is neither a string nor such an object.
    """
    try:
        asked = Conversation.model_validate({"message": given} if isinstance(given, str) else given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "input"
        raise BadInput(
            f'The input is a string or {{"message": …}}: {where}: {first["msg"]}.',
            errors=[{"loc": list(e["loc"]), "msg": e["msg"]} for e in error.errors(include_url=False)],
        ) from None
    return [
        *(Message(role=said.role, text=said.text) for said in asked.history),
        Message(role="user", text=asked.message),
    ]
