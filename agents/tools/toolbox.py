"""Runs tools: arguments checked, time limited, failures turned into results that a model can read."""

from __future__ import annotations

import asyncio
import contextvars
import difflib
import inspect
import json
import logging
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from agents.runtime.ports import ToolContext, ToolPolicy
from agents.runtime.types import ToolCall, ToolResult, ToolSpec
from agents.tools.registry import Refused, Tool, registered
from agents.tools.signature import BadArguments

logger = logging.getLogger(__name__)

MAX_RESULT_CHARS = 100_000
THREADS = 8
_POLICY: dict[str, TypeAdapter[Any]] = {
    "batchable": TypeAdapter(bool),
    "idempotent": TypeAdapter(bool),
    "effect": TypeAdapter(bool),
    "timeout_s": TypeAdapter(float),
}
# Read by the part of Astra that polls; checked here so that a wrong one is named.
_OTHER: dict[str, TypeAdapter[Any]] = {
    "async": TypeAdapter(bool),
    "approval": TypeAdapter(str | None),
    "poll_interval_ms": TypeAdapter(int),
}


class UnknownTool(LookupError):
    """No tool of that name is registered. The message names those that are."""


class LocalToolBox:
    """The tools of this process, as the runtime's `ToolBox`.

    Args:
        tools: By name; by default whatever is registered when it is asked.
        overrides: Per tool what the configuration changes: ``timeoutMs`` (or ``timeout_s``), ``batchable``,
            ``idempotent``, ``effect``, ``approval``, ``async``, ``pollIntervalMs``; camelCase or snake_case.
        max_result_chars: A longer result, as JSON, is cut and says so.

    Raises:
        ValueError: an override names an unknown key, or a value of the wrong kind.
    """

    def __init__(
        self,
        tools: Mapping[str, Tool[..., Any]] | None = None,
        *,
        overrides: Mapping[str, Mapping[str, Any]] | None = None,
        max_result_chars: int = MAX_RESULT_CHARS,
    ) -> None:
        self._tools = tools
        self._overrides = {name: _normalised(name, given) for name, given in (overrides or {}).items()}
        self._changed: dict[str, Tool[..., Any]] = {}
        self._max_result_chars = max_result_chars
        self._threads: ThreadPoolExecutor | None = None

    def get(self, name: str) -> Tool[..., Any]:
        """Return the tool with the configuration's changes.

        Raises:
            UnknownTool: there is none of that name.
        """
        tools = registered() if self._tools is None else self._tools
        if name not in tools:
            near = difflib.get_close_matches(name, tools, n=1)
            hint = f" Did you mean {near[0]}?" if near else f" There are: {', '.join(sorted(tools)) or 'none'}."
            raise UnknownTool(f"There is no tool named {name}.{hint}")
        found = tools[name]
        given = self._overrides.get(name)
        if not given:
            return found
        changed = self._changed.get(name)
        if changed is not None and changed.fn is found.fn:
            return changed
        policy = replace(found.policy, **{key: value for key, value in given.items() if key in _POLICY})
        changed = replace(
            found,
            policy=policy,
            async_=given.get("async", found.async_),
            approval=given.get("approval", found.approval),
        )
        self._changed[name] = changed
        return changed

    def specs(self, names: Sequence[str]) -> tuple[ToolSpec, ...]:
        """Return the tools as a model sees them, in the order of ``names``."""
        return tuple(self.get(name).spec for name in names)

    def policy(self, name: str) -> ToolPolicy:
        """Return how the tool is run."""
        return self.get(name).policy

    async def call(self, call: ToolCall, context: ToolContext) -> ToolResult:
        """Run one call to its end. Whatever goes wrong is a result with ``ok=False``; only cancellation is raised."""
        try:
            tool = self.get(call.tool)
        except UnknownTool as error:
            return _failure(call, "unknown-tool", str(error))
        if tool.approval and not context.approval_id:
            return _failure(call, "approval-required", f"{tool.name} runs only after a person has approved the call.")
        try:
            arguments = tool.signature.validate(call.arguments)
        except BadArguments as error:
            return _failure(call, "bad-arguments", str(error))
        if tool.signature.context:
            arguments[tool.signature.context] = context
        return await self._run(tool, call, arguments)

    async def _run(self, tool: Tool[..., Any], call: ToolCall, arguments: dict[str, Any]) -> ToolResult:
        limit = asyncio.timeout(tool.policy.timeout_s)
        try:
            async with limit:
                if inspect.iscoroutinefunction(tool.fn):
                    content = await tool.fn(**arguments)
                else:
                    content = await self._in_thread(tool, arguments)
            return ToolResult(call_id=call.id, tool=call.tool, content=self._fit(_plain(content)))
        except Refused as refusal:
            return _failure(call, refusal.slug, str(refusal))
        except TimeoutError as error:
            if limit.expired():
                return _failure(call, "timeout", f"{tool.name} did not finish in {tool.policy.timeout_s:g} s.")
            return _broken(call, error)
        except Exception as error:
            return _broken(call, error)

    async def _in_thread(self, tool: Tool[..., Any], arguments: dict[str, Any]) -> Any:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="astra-tool")
        run = contextvars.copy_context().run
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: run(tool.fn, **arguments))

    def _fit(self, content: Any) -> Any:
        written = json.dumps(content, ensure_ascii=False)
        if len(written) <= self._max_result_chars:
            return content
        text = content if isinstance(content, str) else written
        return {
            "text": text[: self._max_result_chars],
            "note": f"The result was cut: it has {len(text)} characters, and {self._max_result_chars} are given.",
        }

    def close(self) -> None:
        """Let go of the threads. Calls that run in them are not waited for."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None


def _failure(call: ToolCall, slug: str, message: str) -> ToolResult:
    return ToolResult(call_id=call.id, tool=call.tool, ok=False, error=slug, content=_plain(message))


def _broken(call: ToolCall, error: Exception) -> ToolResult:
    logger.error("tool failed", exc_info=error, extra={"action": "tool_failed", "tool": call.tool, "call": call.id})
    return _failure(call, "failed", f"{call.tool} failed ({type(error).__name__}). The reason is in Astra's log.")


def _plain(content: Any) -> Any:
    """Return the content as JSON that PostgreSQL can hold: no NUL, no half of a surrogate pair."""
    try:
        return _clean(to_jsonable_python(content, fallback=str))
    except PydanticSerializationError as error:
        raise TypeError(f"a tool returned what is not JSON: {error}") from error


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {_clean(str(key)): _clean(inner) for key, inner in value.items()}
    return [_clean(item) for item in value] if isinstance(value, list) else value


def _normalised(tool: str, given: Mapping[str, Any]) -> dict[str, Any]:
    known = {**_POLICY, **_OTHER}
    kept: dict[str, Any] = {}
    for written, value in given.items():
        key = "".join(f"_{char.lower()}" if char.isupper() else char for char in written).strip("_")
        if key == "id":
            continue
        if key == "timeout_ms":
            key, value = "timeout_s", _checked(tool, written, TypeAdapter(int), value) / 1000
        if key not in known:
            near = difflib.get_close_matches(key, [*known, "timeout_ms"], n=1)
            raise ValueError(f"tool {tool}: unknown key {written!r}" + (f"; did you mean {near[0]}?" if near else ""))
        kept[key] = _checked(tool, written, known[key], value)
    if kept.get("timeout_s", 1) <= 0:
        raise ValueError(f"tool {tool}: the timeout must be more than zero")
    return kept


def _checked(tool: str, key: str, kind: TypeAdapter[Any], value: Any) -> Any:
    try:
        return kind.validate_python(value, strict=not isinstance(value, int) or isinstance(value, bool))
    except ValidationError as error:
        raise ValueError(f"tool {tool}: {key}: {error.errors()[0]['msg']}") from None
