"""Between our messages and pydantic-ai's. Imports pydantic-ai: load it with the first real model, not before."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from jsonschema import Draft202012Validator
from pydantic_ai.exceptions import UnexpectedModelBehavior
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelRequestPart,
    ModelResponse,
    ModelResponsePart,
    ModelResponseStreamEvent,
    PartDeltaEvent,
    PartStartEvent,
    SystemPromptPart,
    TextPart,
    TextPartDelta,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.messages import ToolCallPart as CallPart
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.output import OutputObjectDefinition
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition
from referencing import Registry

from agents.runtime.errors import BadReply
from agents.runtime.ports import Delta
from agents.runtime.types import Message, ModelCall, Reply, ToolCall, ToolResult

_FINISH = {"stop": "stop", "length": "length", "content_filter": "content_filter", "tool_call": "tool_calls"}


def history(messages: Sequence[Message]) -> list[ModelMessage]:
    """Return the conversation in pydantic-ai's form. What lies between two replies is one request."""
    turned: list[ModelMessage] = []
    waiting: list[ModelRequestPart] = []
    for message in messages:
        if message.role != "assistant":
            waiting += _request_parts(message)
            continue
        if waiting:
            turned.append(ModelRequest(parts=waiting))
            waiting = []
        said: list[ModelResponsePart] = [TextPart(message.text)] if message.text else []
        said += [CallPart(call.tool, call.arguments, tool_call_id=call.id) for call in message.calls]
        if said:
            turned.append(ModelResponse(parts=said))
    if waiting:
        turned.append(ModelRequest(parts=waiting))
    return turned


def _request_parts(message: Message) -> list[ModelRequestPart]:
    if message.role == "system":
        return [SystemPromptPart(message.text)] if message.text else []
    results: list[ModelRequestPart] = [_returned(result) for result in message.results]
    return [*results, UserPromptPart(message.text)] if message.text else results


def _returned(result: ToolResult) -> ToolReturnPart:
    if result.ok:
        return ToolReturnPart(result.tool, result.content, tool_call_id=result.call_id)
    said = result.content if isinstance(result.content, str) else json.dumps(result.content, ensure_ascii=False)
    return ToolReturnPart(result.tool, f"{result.error or 'failed'}: {said}", result.call_id, outcome="failed")


def settings(call: ModelCall) -> ModelSettings:
    """Return the settings of a request: one attempt, one deadline over all of it."""
    given = ModelSettings(
        max_tokens=call.max_tokens, timeout=call.timeout_s, request_timeout=call.timeout_s, max_retries=0
    )
    if call.tools:
        given["tool_choice"] = call.tool_choice
    return given


def parameters(call: ModelCall, model: Model) -> ModelRequestParameters:
    """Return the tools and the wanted output. A model without structured output is told the schema in words."""
    tools = [
        ToolDefinition(name=spec.name, description=spec.description, parameters_json_schema=spec.parameters)
        for spec in call.tools
    ]
    if call.output is None:
        return ModelRequestParameters(function_tools=tools)
    native = bool(model.profile.get("supports_json_schema_output", False))
    name = str(call.output.get("title") or "answer")
    wanted = OutputObjectDefinition(json_schema=call.output, name="".join(c for c in name if c.isalnum()) or "answer")
    return ModelRequestParameters(
        function_tools=tools, output_mode="native" if native else "prompted", output_object=wanted
    )


#: A sign of life: the model thinks, or writes the arguments of a call.
ALIVE = Delta("")


def piece(event: ModelResponseStreamEvent) -> Delta | ToolCall:
    """Return what an event of a stream tells: more text, the beginning of a tool call, or no more than `ALIVE`."""
    text = ""
    if isinstance(event, PartStartEvent):
        if isinstance(event.part, CallPart):
            return ToolCall(id=event.part.tool_call_id, tool=event.part.tool_name)
        text = event.part.content if isinstance(event.part, TextPart) else ""
    elif isinstance(event, PartDeltaEvent) and isinstance(event.delta, TextPartDelta):
        text = event.delta.content_delta
    return Delta(clean(text)) if text else ALIVE


def tool_call(part: CallPart) -> ToolCall:
    """Return a call that the model asks for.

    Raises:
        BadReply: its arguments are not a JSON object.
    """
    try:
        arguments = part.args_as_dict(raise_if_invalid=True)
    except (ValueError, AssertionError, UnexpectedModelBehavior):
        raise BadReply(f"The model asked for {part.tool_name} with arguments that are not JSON.") from None
    return ToolCall(id=part.tool_call_id, tool=part.tool_name, arguments=clean(arguments))


def reply(call: ModelCall, response: ModelResponse) -> Reply:
    """Return what the model answered; the usage is added by the port.

    Raises:
        BadReply: it ended before its end, or is not what was asked for.
    """
    finish: Any = _FINISH.get(response.finish_reason or "stop", "error")
    asked = finish != "length"
    text = clean("".join(part.content for part in response.parts if isinstance(part, TextPart)))
    calls = tuple(tool_call(part) for part in response.parts if isinstance(part, CallPart)) if asked else ()
    if calls and finish == "stop":
        finish = "tool_calls"
    data = None
    if call.output is not None and not calls and finish == "stop":
        data = _data(call.output, text)
    return Reply(text=text, calls=calls, data=data, model=call.model, finish=finish)


def is_cut_off(response: ModelResponse) -> bool:
    """Tell whether a stream ended before the answer did.

    Where a server hangs up between two lines, nothing else shows it than that it gave no reason to end. A chat
    completion without a reason counts as whole when its bill came, which is last: some servers never give one.
    """
    if response.state != "complete" or response.finish_reason is None:
        return True
    gave_reason = bool((response.provider_details or {}).get("finish_reason"))
    return not gave_reason and response.finish_reason == "stop" and bool(response.usage.unmeasured_requests)


def _data(schema: dict[str, Any], text: str) -> Any:
    bare = text.strip()
    if bare.startswith("```"):
        bare = bare.strip("`").removeprefix("json").strip()
    try:
        data = json.loads(bare)
    except ValueError:
        raise BadReply("The model was asked for JSON and answered something else.") from None
    fault = next(iter(Draft202012Validator(schema, registry=Registry()).iter_errors(data)), None)
    if fault is not None:
        where = ".".join(map(str, fault.absolute_path)) or "the answer"
        raise BadReply(f"The model's answer does not fit the schema: {where}: {fault.message[:200]}")
    return data


def clean(value: Any) -> Any:
    """Return a value without what PostgreSQL cannot hold: NUL, and halves of surrogate pairs."""
    if isinstance(value, str):
        if value.isascii() and "\x00" not in value:
            return value
        return value.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {clean(key): clean(inner) for key, inner in value.items()}
    return [clean(item) for item in value] if isinstance(value, list) else value
